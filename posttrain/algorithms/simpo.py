"""SimPO: the reward is how likely a token of the answer is on average; no reference.

    L = -log σ(β(a_w - a_l) - γ),  a = log π(y)/|y|

(Meng et al. 2024, arXiv 2405.14734, eq. 6.) What is trained is what generation follows, and the
model is held once. Degenerate case: nothing ties the policy to where it started but the learning
rate: ten times too high a rate makes it babble.
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
    """Settings of SimPO."""

    lr: float = Field(default=1e-6, gt=0)
    """Peak learning rate."""
    beta: float = Field(default=2.5, gt=0)
    """Scale of the reward: 2 to 10 in the paper."""
    gamma: float = Field(default=1.375, ge=0)
    """γ: the margin that the chosen answer has to lead by; about .55·β."""


def objective(config: Config) -> Objective:
    """Our loss in TRL's trainer."""

    def loss(inputs: PreferenceInputs) -> Tensor:
        chosen_B, rejected_B = inputs.mean_logprob("chosen"), inputs.mean_logprob("rejected")
        return ops.preferences.simpo(chosen_B, rejected_B, config.beta, config.gamma)

    return Objective(config.training_arguments() | {"beta": config.beta}, loss)
