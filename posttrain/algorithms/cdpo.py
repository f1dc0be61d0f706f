"""Conservative DPO: some of the labels are taken to be wrong.

    L = (1 - e)·(-log σ(βΔ)) + e·(-log σ(-βΔ))

(Mitchell 2023, "A note on DPO with noisy preferences".) Its minimum is at βΔ = log((1 - e)/e): 2.2
for e of .1. TRL's trainer has no such loss; ours is used in it. Degenerate case: e of .5 says that
labels mean nothing, and nothing is learnt.
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
    """Settings of conservative DPO."""

    lr: float = Field(default=1e-6, gt=0)
    """Peak learning rate."""
    beta: float = Field(default=0.1, gt=0)
    """How near the policy stays to the reference."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=0.5)
    """e: the share of comparisons whose label is taken to be wrong."""


def objective(config: Config) -> Objective:
    """Our loss in TRL's trainer."""

    def loss(inputs: PreferenceInputs) -> Tensor:
        margin_B = inputs.ratio("chosen") - inputs.ratio("rejected")
        return ops.preferences.dpo(margin_B, config.beta, config.label_smoothing)

    return Objective(config.training_arguments() | {"beta": config.beta}, loss)
