"""GRPO: group relative policy optimisation (Shao et al. 2024, DeepSeekMath, arXiv 2402.03300).

    A_i = (r_i - mean(r)) / (std(r) + 1e-6)         over the K samples of one prompt, std unbiased
    L_t = max(-A·w_t, -A·clip(w_t, 1 - low, 1 + high)),   w_t = π(y_t) / π_old(y_t)
    L   = mean over answers of the mean over their tokens, + β · k3(π, π_ref)

The samples of a prompt are one another's baseline, so there is no critic. π_old is the policy that
sampled, or the one right before the step: the stage's `off_policy` says which.

Assumes rewards of one prompt are comparable, and K >= 2. Degenerate case: all K rewards equal gives
A = 0; the group teaches nothing. With one step per batch, on fresh answers, w = 1 and the loss's
*value* is near 0: its gradient is not.

The paper's runs: lr 1e-6, K = 64, β = 0.04. β defaults to 0 here, as later work found no use for it
with verifiable rewards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from posttrain import ops
from posttrain.config.optimiser import OptimiserConfig
from posttrain.ports import AdvantageInputs, Advantages, LossInputs, LossTerms, Needs

if TYPE_CHECKING:
    from torch import Tensor

NEEDS = Needs(groups=True)
STD_EPSILON = 1e-6


class Config(OptimiserConfig):
    """Settings of GRPO."""

    clip_low: float = Field(default=0.2, gt=0, lt=1)
    """A bad token's gradient stops once it is this share less likely than when sampled."""
    clip_high: float = Field(default=0.2, gt=0)
    """A good token's gradient stops once it is this share more likely than when sampled."""
    scale: Literal["std", "none"] = "std"
    """Whether advantages are divided by their group's standard deviation; `none` is Dr. GRPO."""
    aggregation: Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum"] = (
        "seq-mean-token-mean"
    )
    """How token losses become one number; the paper weighs every answer the same."""
    kl_in_loss: float = Field(default=0.0, ge=0.0)
    """β, the weight of the KL term to the model that the stage starts from; 0 leaves it out."""


def needs(config: Config) -> Needs:
    """A reference model only where the KL term is used."""
    return Needs(groups=True, reference=config.kl_in_loss > 0)


def advantages(inputs: AdvantageInputs, config: Config) -> Advantages:
    """[T] each answer's advantage on each of its tokens. Raises ValueError for groups of one."""
    rewards_GK = inputs.rewards_GK.float()
    advantages_GK = rewards_GK - ops.baselines.group_mean(rewards_GK)
    if config.scale == "std":
        advantages_GK = advantages_GK / (ops.baselines.group_std(rewards_GK) + STD_EPSILON)
    return Advantages(ops.baselines.over_tokens(advantages_GK, inputs.lengths_B).detach())


def loss(inputs: LossInputs, config: Config) -> LossTerms:
    """The clipped surrogate, and the KL term where β is above 0."""
    ratio_T = ops.surrogates.ratio(inputs.logprobs_T, inputs.old_logprobs_T)
    loss_T = ops.surrogates.clipped(ratio_T, inputs.advantages_T, config.clip_low, config.clip_high)
    metrics = _clip_metrics(inputs, config, ratio_T.detach())
    kl = None
    if config.kl_in_loss > 0:
        if inputs.reference_logprobs_T is None:
            raise ValueError("kl_in_loss is above 0, but no reference log-probs were given")
        kl_T = ops.kl.k3(inputs.logprobs_T, inputs.reference_logprobs_T)
        kl = config.kl_in_loss * _aggregate(kl_T, inputs, config)
    return LossTerms(policy=_aggregate(loss_T, inputs, config), kl=kl, metrics=metrics)


def _aggregate(losses_T: Tensor, inputs: LossInputs, config: Config) -> Tensor:
    return ops.masked.aggregate(
        losses_T,
        inputs.mask_T,
        inputs.sequence_T,
        inputs.num_sequences,
        config.aggregation,
        total_tokens=inputs.total_tokens,
        total_sequences=inputs.total_sequences,
    )


def _clip_metrics(inputs: LossInputs, config: Config, ratio_T: Tensor) -> dict[str, Tensor]:
    low_T = ops.surrogates.clipped_low(ratio_T, inputs.advantages_T, config.clip_low)
    high_T = ops.surrogates.clipped_high(ratio_T, inputs.advantages_T, config.clip_high)
    return {
        "policy/ratio_mean": _share(ratio_T, inputs),
        "policy/clip_low_share": _share(low_T, inputs),
        "policy/clip_high_share": _share(high_T, inputs),
    }


def _share(values_T: Tensor, inputs: LossInputs) -> Tensor:
    """This micro-batch's part of the mean over the whole batch's tokens."""
    return (values_T * inputs.mask_T).sum() / max(inputs.total_tokens, 1.0)
