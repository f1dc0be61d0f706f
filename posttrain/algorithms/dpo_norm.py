"""Length-normalised DPO: margins per token, so that longer is not better by itself.

    L = -log σ(β·[(log π(w) - log π_ref(w))/|w| - (log π(l) - log π_ref(l))/|l|])

(Lambert et al. 2024, Tülu 3, arXiv 2411.15124, section 5, whose β is 5.) Degenerate case: a mean
margin of .1 nats needs β of 5 to weigh as much as 50 tokens do in DPO with .1; β of the one means
nothing to the other.
"""

from __future__ import annotations

from pydantic import Field

from posttrain.config.optimiser import OfflineConfig
from posttrain.ports import Needs, Objective

NEEDS = Needs(pairs=True, reference=True)


class Config(OfflineConfig):
    """Settings of length-normalised DPO."""

    lr: float = Field(default=5e-7, gt=0)
    """Peak learning rate."""
    beta: float = Field(default=5.0, gt=0)
    """How near the policy stays to the reference, per token."""


def objective(config: Config) -> Objective:
    """TRL has this loss."""
    return Objective(
        config.training_arguments() | {"loss_type": ["sigmoid_norm"], "beta": config.beta}
    )
