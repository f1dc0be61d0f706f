"""KTO: each answer is good or bad by itself, as people judge gains and losses.

    L = 1/2·{λ_w·[1 - σ(β(r_w - z))] + λ_l·[1 - σ(β(z - r_l))]},  r = log π(y) - log π_ref(y)
    z = max(0, mean r of answers after prompts that they do not belong to)

(Ethayarajh et al. 2024, arXiv 2402.01306, section 4.) A comparison gives one good and one bad
answer. z is estimated over the whole optimiser batch, without gradient, on the chosen and rejected
answers of another row. Degenerate case: where all rows have one prompt, every answer belongs to
it.
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

_MISMATCHED = {
    "other_chosen": Said("chosen", of_next=True, detached=True),
    "other_rejected": Said("rejected", of_next=True, detached=True),
}


class Config(OfflineConfig):
    """Settings of KTO."""

    lr: float = Field(default=1e-6, gt=0)
    """Peak learning rate."""
    beta: float = Field(default=0.1, gt=0)
    """How near the policy stays to the reference."""
    weight_chosen: float = Field(default=1.0, gt=0)
    """λ of good answers. As there are as many good as bad ones, keep its ratio to the other
    between 1 and 4/3."""
    weight_rejected: float = Field(default=1.0, gt=0)
    """λ of bad answers."""


def objective(config: Config) -> Objective:
    """Our loss in TRL's trainer: TRL's own KTOTrainer takes rows of one answer."""

    def loss(inputs: PreferenceInputs) -> Tensor:
        import torch

        baseline = ops.preferences.kto_baseline(
            torch.cat([inputs.whole[name] for name in _MISMATCHED])
        )
        return ops.preferences.kto(
            inputs.ratio("chosen"),
            inputs.ratio("rejected"),
            baseline.to(inputs.logprobs["chosen"].device),
            config.beta,
            config.weight_chosen,
            config.weight_rejected,
        )

    settings = config.training_arguments() | {"beta": config.beta}
    return Objective(settings, loss, {**PAIR, **_MISMATCHED})
