"""DNO: direct Nash optimisation, practical form: DPO on the policy's own answers, round by round.

    L = -log σ(η·[log π(w)/π_t(w) - log π(l)/π_t(l)]) - s·log π(w)/|w|

(Rosset et al. 2024, arXiv 2404.03715, algorithm 2.) The reference is the policy of the round's
start, not the SFT model: this stage's `model`. The comparisons come from its own answers, rated by
a judge, of which a pair is made where the better one is good enough and leads by enough. Repeated,
it goes towards a policy that no other beats on average, also where preferences form circles.
Degenerate case: comparisons of an older policy make it plain DPO.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from posttrain import ops
from posttrain.config.optimiser import OfflineConfig
from posttrain.ports import Needs, Objective, PreferenceInputs

if TYPE_CHECKING:
    from torch import Tensor

NEEDS = Needs(pairs=True, reference=True)


class Config(OfflineConfig):
    """Settings of direct Nash optimisation."""

    lr: float = Field(default=5e-7, gt=0)
    """Peak learning rate."""
    eta: float = Field(default=0.1, gt=0)
    """η: how near the round's policy stays to its start; .1 in the first round, .05 later."""
    sft_weight: float = Field(default=0.005, ge=0)
    """s: what the likelihood of the better answer weighs, so that it does not fall."""


def objective(config: Config) -> Objective:
    """Our loss in TRL's trainer."""

    def loss(inputs: PreferenceInputs) -> Tensor:
        margin_B = inputs.ratio("chosen") - inputs.ratio("rejected")
        likelihood_B = inputs.mean_logprob("chosen")
        return ops.preferences.dpo(margin_B, config.eta) - config.sft_weight * likelihood_B

    return Objective(config.training_arguments() | {"beta": config.eta}, loss)
