"""CRPG: calibrated-regularised policy gradient, of CGPO (Xu et al. 2024, arXiv 2409.20370).

    R_i = clip(1 - log(π(y_i)/π_ref(y_i)) / KL_max, 0, 1) · r_i
    A_i = R_i - mean(R)                             over all answers of the batch
    L_t = max(-A·w_t, -A·clip(w_t, 1 - low, 1 + high)),   w_t = π(y_t) / π_old(y_t)
    L   = mean over answers of the sum over their tokens

r is the reward behind constraints, 0 where one is violated: `gated` with `calibrated` as its score.
Each answer has a budget of KL_max nats, its log-ratio summed over its tokens; what it spends is
taken off its reward in proportion, and an answer beyond the budget is as bad as one that violates a
constraint. As printed, an answer that the policy has made *less* likely would earn more than its
reward; here it does not, for the log-ratio of a single sample is mostly noise.

The baseline is the batch's mean: one sample per prompt will do. On fresh answers w = 1 and this is
REINFORCE; more steps, or older answers, need a ratio, as in PPO.

Assumes rewards of 0 or more that can be compared across prompts, which is what calibration is for;
a negative one would be *raised* by drifting, and is refused. Degenerate cases: equal R, also where
all violate, give A = 0. A group of equal R still teaches: towards the batch's mean.
"""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field

from posttrain import ops
from posttrain.algorithms._constraints import log_ratios, rewards_of_zero_or_more
from posttrain.algorithms._rewards import rewards_less_kl
from posttrain.algorithms._terms import clipped_terms, token_ratio
from posttrain.config.policy_gradient import Aggregation, ClippedConfig
from posttrain.ports import AdvantageInputs, Advantages, LossInputs, LossTerms, Needs

NEEDS = Needs(reference=True)


class Config(ClippedConfig):
    """Settings of CRPG."""

    kl_max: float = Field(default=10.0, gt=0)
    """Nats that an answer may be likelier than under the stage's starting model before nothing is
    left of its reward."""
    aggregation: Aggregation = "seq-mean-token-sum"
    """How token losses become one number; the sum per answer is REINFORCE's own estimator."""


def needs(config: Config) -> Needs:
    """The reference in any case: the budget is measured against it."""
    return NEEDS


def advantages(inputs: AdvantageInputs, config: Config) -> Advantages:
    """[T] what is left of each reward, less the batch's mean. StageFailed for negative rewards."""
    rewards_GK = rewards_of_zero_or_more(inputs)
    factor_GK = ops.constraints.kl_factor(log_ratios(inputs), config.kl_max)
    left_GK = rewards_less_kl(replace(inputs, rewards_GK=factor_GK * rewards_GK))
    advantages_GK = left_GK - ops.baselines.batch_mean(left_GK)
    advantages_T = ops.baselines.over_tokens(advantages_GK, inputs.lengths_B)
    metrics = {"reward/kl_factor_mean": float(factor_GK.mean())}
    return Advantages(advantages_T.detach(), metrics=metrics)


def loss(inputs: LossInputs, config: Config) -> LossTerms:
    """The clipped surrogate, and the KL term where β is in the loss."""
    return clipped_terms(inputs, config, token_ratio(inputs))
