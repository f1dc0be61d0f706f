"""Robust DPO: the loss that correct labels would have given, from labels flipped at a known rate.

    L = [(1 - e)·(-log σ(βΔ)) - e·(-log σ(-βΔ))] / (1 - 2e)

(Chowdhury et al. 2024, arXiv 2403.00409, section 3.) Its expectation over flips is DPO's loss on
the true labels. It may be negative. Degenerate case: e near .5 divides by nearly 0: the estimate is
right on average and useless in a batch.
"""

from __future__ import annotations

from pydantic import Field

from posttrain.config.optimiser import OfflineConfig
from posttrain.ports import Needs, Objective

NEEDS = Needs(pairs=True, reference=True)


class Config(OfflineConfig):
    """Settings of robust DPO."""

    lr: float = Field(default=1e-6, gt=0)
    """Peak learning rate."""
    beta: float = Field(default=0.1, gt=0)
    """How near the policy stays to the reference."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=0.5)
    """e: the share of comparisons whose label is wrong."""


def objective(config: Config) -> Objective:
    """TRL has this loss."""
    settings = {
        "loss_type": ["robust"],
        "beta": config.beta,
        "label_smoothing": config.label_smoothing,
    }
    return Objective(config.training_arguments() | settings)
