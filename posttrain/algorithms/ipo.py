"""IPO: a margin to reach, not one to exceed for ever.

    L = (Δ̄ - 1/(2β))²,  Δ̄ = (log π(w) - log π_ref(w))/|w| - (log π(l) - log π_ref(l))/|l|

(Azar et al. 2023, arXiv 2310.12036, eq. 17, where β is τ. The paper's formula sums log-probs; its
authors confirmed to TRL that they average over tokens.) Degenerate case: β is per token. TRL's .1
aims at 5 nats per token, more than a policy near its reference has: the pull never ends; 1 aims at
half a nat.
"""

from __future__ import annotations

from pydantic import Field

from posttrain.config.optimiser import OfflineConfig
from posttrain.ports import Needs, Objective

NEEDS = Needs(pairs=True, reference=True)


class Config(OfflineConfig):
    """Settings of IPO."""

    lr: float = Field(default=1e-6, gt=0)
    """Peak learning rate."""
    beta: float = Field(default=0.1, gt=0)
    """τ of the paper: the margin aimed at is 1/(2β) nats per token."""


def objective(config: Config) -> Objective:
    """TRL has this loss."""
    return Objective(config.training_arguments() | {"loss_type": ["ipo"], "beta": config.beta})
