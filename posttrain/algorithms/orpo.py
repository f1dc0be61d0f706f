"""ORPO: supervised fine-tuning on the chosen answer, and odds in its favour, in one stage.

    L = -a_w - λ·log σ(log odds(w) - log odds(l)),  a = log π(y)/|y|,  odds = e^a/(1 - e^a)

(Hong et al. 2024, arXiv 2403.07691, eq. 6 and 7.) It is meant for the base model, in place of SFT
and preferences one after the other. Degenerate case: an answer that is certain has endless odds; it
is held just below certainty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from posttrain import ops
from posttrain.config.optimiser import OfflineConfig
from posttrain.ports import Needs, Objective, PreferenceInputs

if TYPE_CHECKING:
    from torch import Tensor

NEEDS = Needs(pairs=True)


class Config(OfflineConfig):
    """Settings of ORPO."""

    lr: float = Field(default=5e-6, gt=0)
    """Peak learning rate."""
    odds_weight: float = Field(default=0.1, gt=0)
    """λ: what the odds weigh beside the likelihood of the chosen answer."""


def objective(config: Config) -> Objective:
    """Our loss in TRL's trainer."""

    def loss(inputs: PreferenceInputs) -> Tensor:
        chosen_B, rejected_B = inputs.mean_logprob("chosen"), inputs.mean_logprob("rejected")
        return ops.preferences.orpo(chosen_B, rejected_B, config.odds_weight)

    return Objective(config.training_arguments(), loss)
