"""REINFORCE++ (Hu et al. 2025, arXiv 2501.03262), and its variant with a group baseline.

    baseline: none    A_t = Σ_{s>=t} γ^(s-t)·(-β·k1_s + [s last]·r)
    baseline: group   A_t = R - mean(R) of its group,   R = r - β·Σ_t k1_t
    both              A   = (A - μ) / √(var + 1e-8)          over all tokens of the batch
    L_t = max(-A·w_t, -A·clip(w_t, 1 - low, 1 + high)),   w_t = π(y_t) / π_old(y_t)
    L   = mean over all tokens

The baseline is the batch's mean: no critic, and one sample per prompt will do. The spread is the
whole batch's too, so that no prompt's advantages are blown up by a small group's chance agreement.
`baseline: group` is what the paper advises where prompts differ much in difficulty.

Assumes that rewards of different prompts are comparable. Degenerate cases: equal returns of all
tokens give A = 0. Without a baseline a group of equal rewards still teaches: towards the batch's
mean. Statistics are per token, so long answers weigh more in them.

The paper's runs: β = 0.01 in the reward, γ = 1, clip 0.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from posttrain import ops
from posttrain.algorithms._rewards import checked_rewards, kl_per_token, rewards_less_kl
from posttrain.algorithms._terms import clipped_terms, token_ratio
from posttrain.config.policy_gradient import ClippedConfig, unused
from posttrain.ports import AdvantageInputs, Advantages, LossInputs, LossTerms, Needs

if TYPE_CHECKING:
    from torch import Tensor

NEEDS = Needs(reference=True)


class Config(ClippedConfig):
    """Settings of REINFORCE++."""

    kl_in_reward: float = Field(default=0.01, ge=0.0)
    """β of the KL to the stage's starting model, taken off the reward token by token (k1)."""
    baseline: Literal["none", "group"] = "none"
    """What a reward is compared with before the whitening: nothing, or its group's mean
    (REINFORCE++-baseline, which needs two or more samples per prompt)."""
    gamma: float = Field(default=1.0, gt=0, le=1)
    """How much a token counts of what is earned one token later; only without a baseline."""

    @model_validator(mode="after")
    def _uses_gamma(self) -> Config:
        if self.baseline == "group" and self.gamma != 1.0:
            why = "with `baseline: group` every token gets the same"
            raise unused("gamma", why, "baseline: none")
        return self


def needs(config: Config) -> Needs:
    """Groups for the group baseline, a reference model where the KL is used."""
    return Needs(groups=config.baseline == "group", reference=config.needs_reference)


def advantages(inputs: AdvantageInputs, config: Config) -> Advantages:
    """[T] whitened over the batch. Raises ValueError for groups of one with `baseline: group`."""
    returns_T = _over_group(inputs) if config.baseline == "group" else _to_go(inputs, config.gamma)
    return Advantages(ops.masked.whiten(returns_T, inputs.mask_T).detach())


def loss(inputs: LossInputs, config: Config) -> LossTerms:
    """The clipped surrogate, and the KL term where β is in the loss."""
    return clipped_terms(inputs, config, token_ratio(inputs))


def _to_go(inputs: AdvantageInputs, gamma: float) -> Tensor:
    rewards_T = ops.returns.token_rewards(
        checked_rewards(inputs).flatten(),
        kl_per_token(inputs),
        inputs.kl_coefficient,
        inputs.lengths_B,
        inputs.mask_T,
    )
    return ops.returns.to_go(rewards_T, inputs.lengths_B, inputs.mask_T, gamma)


def _over_group(inputs: AdvantageInputs) -> Tensor:
    centred_GK = ops.baselines.group_advantages(rewards_less_kl(inputs), "none")
    return ops.baselines.over_tokens(centred_GK, inputs.lengths_B)
