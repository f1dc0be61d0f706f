"""KTO: each answer is good or bad by itself, as people judge gains and losses.

    L = 1/2·{λ_w·[1 - σ(β(r_w - z))] + λ_l·[1 - σ(β(z - r_l))]},  r = log π(y) - log π_ref(y)
    z = max(0, mean r of answers after prompts that they do not belong to)

(Ethayarajh et al. 2024, arXiv 2402.01306, section 4.) A comparison gives one good and one bad
answer. z is estimated over the whole optimiser batch, without gradient, on the chosen and rejected
answers of another row. Degenerate case: where all rows have one prompt, every answer belongs to
it.

With `rows: judged` each row is one answer, good or bad (`prompt`, `completion`, `label`), and its
loss the one half of the above that it has. There the rarer kind first gets the weight with which
both count alike, n_w·λ_w = n_l·λ_l; λ of the settings come on top.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from posttrain import ops
from posttrain.config.optimiser import OfflineConfig
from posttrain.ports import ANSWER, JUDGED, PAIR, Needs, Objective, PreferenceInputs, Said

if TYPE_CHECKING:
    from torch import Tensor

NEEDS = Needs(pairs=True, reference=True)

_MISMATCHED = {
    "other_chosen": Said("chosen", of_next=True, detached=True),
    "other_rejected": Said("rejected", of_next=True, detached=True),
}
_MISMATCHED_JUDGED = {"other": Said("judged", of_next=True, detached=True)}


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
    # Not told where it is not asked for: identities of stages without stay what they were.
    rows: Literal["pairs", "judged"] = Field(
        default="pairs", exclude_if=lambda value: value == "pairs"
    )
    """pairs: each row compares a chosen and a rejected answer. judged: each has one `completion`,
    and a `label` that is true where it is good."""


def needs(config: Config) -> Needs:
    """`NEEDS`, and whether rows are judged answers."""
    return replace(NEEDS, judged=config.rows == "judged")


def objective(config: Config) -> Objective:
    """Our loss in TRL's trainer for pairs, which also has single answers: one for both."""
    settings = config.training_arguments() | {"beta": config.beta}
    if config.rows == "judged":
        return Objective(settings, _judged_loss(config), {**JUDGED, **_MISMATCHED_JUDGED})
    return Objective(settings, _pair_loss(config), {**PAIR, **_MISMATCHED})


def _judged_loss(config: Config) -> Callable[[PreferenceInputs], Tensor]:
    def loss(inputs: PreferenceInputs) -> Tensor:
        import torch

        good_B, balance_B = inputs.good_B, inputs.balance_B
        assert good_B is not None and balance_B is not None
        ratio_B = inputs.ratio(ANSWER)
        baseline = ops.preferences.kto_baseline(inputs.whole["other"]).to(ratio_B.device)
        own_B = torch.where(good_B, config.weight_chosen, config.weight_rejected)
        return ops.preferences.kto_judged(ratio_B, good_B, baseline, config.beta, own_B * balance_B)

    return loss


def _pair_loss(config: Config) -> Callable[[PreferenceInputs], Tensor]:
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

    return loss
