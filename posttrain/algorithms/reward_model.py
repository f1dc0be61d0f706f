"""Reward model: one number per answer, larger for the one that people prefer.

    L = -log σ(r(x, w) - r(x, l)) + c·(r(x, w) + r(x, l))²      mean over comparisons

the Bradley-Terry likelihood of the choices (Ouyang et al. 2022, arXiv 2203.02155, eq. 1). Only
differences are learnt: `centre` is c, which holds the scores around 0 (Eisenstein et al. 2023,
arXiv 2312.09244). Degenerate case: what no comparison varies is scored by chance; members of an
ensemble that differ in their heads and the order of rows disagree there, and the ensemble can tell.

The rate is that of the ensembles of Coste et al. 2024 (arXiv 2310.02743), who make five passes; one
is the default of the stage, because more overfit.
"""

from __future__ import annotations

from pydantic import Field

from posttrain.config.optimiser import OfflineConfig
from posttrain.ports import Needs, Objective

NEEDS = Needs(pairs=True, score_head=True)


class Config(OfflineConfig):
    """Settings of reward models."""

    lr: float = Field(default=1e-5, gt=0)
    """Peak learning rate."""
    centre: float = Field(default=0.01, ge=0)
    """Weight of the squared sum of both scores, which keeps them around 0."""


def objective(config: Config) -> Objective:
    """TRL's RewardTrainer has this loss."""
    return Objective(
        config.training_arguments() | {"center_rewards_coefficient": config.centre or None}
    )
