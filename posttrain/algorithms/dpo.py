"""DPO: direct preference optimisation, a reward model and its optimal policy in one.

    L = -log σ(βΔ),  Δ = [log π(w) - log π_ref(w)] - [log π(l) - log π_ref(l)]

(Rafailov et al. 2023, arXiv 2305.18290, eq. 7; log-probs summed over an answer.) The gradient's
weight is σ(-βΔ): comparisons that are right by far teach nothing more. Degenerate cases: the chosen
answer's probability may fall as long as the rejected one's falls faster; longer answers have larger
Δ (`dpo_norm` divides by length); with labels that are never wrong the margin grows without end
(`cdpo` and `ipo` aim at a finite one).
"""

from __future__ import annotations

from pydantic import Field

from posttrain.config.optimiser import OfflineConfig
from posttrain.ports import Needs, Objective

NEEDS = Needs(pairs=True, reference=True)


class Config(OfflineConfig):
    """Settings of DPO."""

    lr: float = Field(default=1e-6, gt=0)
    """Peak learning rate; the paper's is 1e-6, of models with billions of parameters 5e-7."""
    beta: float = Field(default=0.1, gt=0)
    """How near the policy stays to the reference: the reward is β·log(π/π_ref)."""


def objective(config: Config) -> Objective:
    """TRL has this loss."""
    return Objective(config.training_arguments() | {"loss_type": ["sigmoid"], "beta": config.beta})
