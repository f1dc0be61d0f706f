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

from typing import Literal

from posttrain import ops
from posttrain.algorithms._rewards import rewards_less_kl
from posttrain.algorithms._terms import clipped_terms, token_ratio
from posttrain.config.policy_gradient import Aggregation, ClippedConfig
from posttrain.ports import AdvantageInputs, Advantages, LossInputs, LossTerms, Needs

NEEDS = Needs(groups=True)


class Config(ClippedConfig):
    """Settings of GRPO."""

    scale: Literal["std", "batch", "none"] = "std"
    """What advantages are divided by: their group's standard deviation, that of the whole batch's
    rewards (LitePPO), or nothing (Dr. GRPO)."""
    aggregation: Aggregation = "seq-mean-token-mean"
    """How token losses become one number; the paper weighs every answer the same."""


def advantages(inputs: AdvantageInputs, config: Config) -> Advantages:
    """[T] each answer's advantage on each of its tokens. Raises ValueError for groups of one."""
    advantages_GK = ops.baselines.group_advantages(rewards_less_kl(inputs), config.scale)
    return Advantages(ops.baselines.over_tokens(advantages_GK, inputs.lengths_B).detach())


def loss(inputs: LossInputs, config: Config) -> LossTerms:
    """The clipped surrogate, and the KL term where β is above 0."""
    return clipped_terms(inputs, config, token_ratio(inputs))
