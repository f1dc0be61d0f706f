"""SRPO: a policy that needs no revision, trained together with its own reviser.

Of each comparison six answers count: w and l alone, and each after each as a draft (Choi et al.
2024, arXiv 2406.01660). The loss is in `posttrain.ops.preferences.srpo`: squares around ±1/2, whose
solution does not depend on which model wrote the answers. The reviser is the same network, shown
the draft and asked to improve it: after training it can be asked to revise its own answers, as
often as one likes. Degenerate case: log-ratios of long answers are large beside 1/2; keep β small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from posttrain import ops
from posttrain.config.optimiser import OfflineConfig
from posttrain.ports import PAIR, Needs, Objective, PreferenceInputs, Said

if TYPE_CHECKING:
    from torch import Tensor

NEEDS = Needs(pairs=True, reference=True)

_REVISED = {
    "w_after_l": Said("chosen", after="rejected"),
    "l_after_w": Said("rejected", after="chosen"),
    "l_after_l": Said("rejected", after="rejected"),
    "w_after_w": Said("chosen", after="chosen"),
}


class Config(OfflineConfig):
    """Settings of SRPO."""

    lr: float = Field(default=1e-6, gt=0)
    """Peak learning rate."""
    beta: float = Field(default=0.01, gt=0)
    """How near policy and reviser stay to the reference; log-ratios times β aim at ±1/2."""
    revision_share: float = Field(default=0.5, ge=0, le=1)
    """s: what the reviser's loss weighs; the policy's has the rest."""
    revision_prompt: str = "Improve this answer."
    """What the user says after a draft."""


def objective(config: Config) -> Objective:
    """Our loss in TRL's trainer."""

    def loss(inputs: PreferenceInputs) -> Tensor:
        return ops.preferences.srpo(
            inputs.ratio("chosen"),
            inputs.ratio("rejected"),
            inputs.ratio("w_after_l"),
            inputs.ratio("l_after_w"),
            inputs.ratio("l_after_l"),
            inputs.ratio("w_after_w"),
            config.beta,
            config.revision_share,
        )

    settings = config.training_arguments() | {"beta": config.beta}
    return Objective(settings, loss, {**PAIR, **_REVISED}, config.revision_prompt)
