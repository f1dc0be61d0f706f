"""CISPO: clipped importance-sampling weights (MiniMax 2025, MiniMax-M1, arXiv 2506.13585).

    A_i = (r_i - mean(r)) / (std(r) + 1e-6)         over the K samples of one prompt
    w_t = clip(π(y_t) / π_old(y_t), 1 - low, 1 + high)     without gradient
    L   = mean over all tokens of  -w_t · A · log π(y_t)

PPO's clip takes a token's gradient away once its ratio leaves the interval, and the rare words that
turn an argument around are the first to leave it. Here the weight is bounded and every token keeps
its gradient.

Assumes K >= 2. Degenerate case: equal rewards give A = 0. On fresh answers w = 1: REINFORCE with a
group baseline. The loss's value means nothing (a constant added to A changes it); its gradient is
the policy's.

The paper clips from above only, as the default does (`clip_low: 1`). The upper bound of 5
(`clip_high: 4`) is the one of ScaleRL (Khatri et al. 2025, arXiv 2510.13786), which also divides by
the batch's standard deviation: `scale: batch`. No KL.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from posttrain import ops
from posttrain.algorithms._rewards import rewards_less_kl
from posttrain.algorithms._terms import aggregate, kl_term, share, token_ratio
from posttrain.config.policy_gradient import PolicyGradientConfig
from posttrain.ports import AdvantageInputs, Advantages, LossInputs, LossTerms, Needs

NEEDS = Needs(groups=True)


class Config(PolicyGradientConfig):
    """Settings of CISPO."""

    clip_low: float = Field(default=1.0, gt=0, le=1)
    """Weights are held to 1 minus this, or more; 1 is no lower bound."""
    clip_high: float = Field(default=4.0, gt=0)
    """Weights are held to 1 plus this, or less."""
    scale: Literal["std", "batch", "none"] = "std"
    """What advantages are divided by: their group's standard deviation, that of the whole batch's
    rewards (ScaleRL), or nothing."""


def advantages(inputs: AdvantageInputs, config: Config) -> Advantages:
    """[T] each answer's advantage on each of its tokens. Raises ValueError for groups of one."""
    advantages_GK = ops.baselines.group_advantages(rewards_less_kl(inputs), config.scale)
    return Advantages(ops.baselines.over_tokens(advantages_GK, inputs.lengths_B).detach())


def loss(inputs: LossInputs, config: Config) -> LossTerms:
    """Log-probs weighed by bounded ratios, and the KL term where β is above 0."""
    ratio_T = token_ratio(inputs).detach()
    low, high = 1.0 - config.clip_low, 1.0 + config.clip_high
    loss_T = ops.surrogates.weighted_logprobs(
        inputs.logprobs_T.float(), ratio_T.clamp(low, high), inputs.advantages_T
    )
    metrics = {
        "policy/ratio_mean": share(ratio_T, inputs),
        "policy/clip_low_share": share(ratio_T < low, inputs),
        "policy/clip_high_share": share(ratio_T > high, inputs),
    }
    policy = aggregate(loss_T, inputs, config)
    return LossTerms(policy=policy, kl=kl_term(inputs, config), metrics=metrics)
