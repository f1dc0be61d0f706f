"""RLOO: REINFORCE leave-one-out (Ahmadian et al. 2024, arXiv 2402.14740).

    R_i = r_i - β · Σ_t log π(y_t) / π_ref(y_t)
    A_i = R_i - mean of the other samples' R        = K/(K-1) · (R_i - mean(R))
    L_t = max(-A·w_t, -A·clip(w_t, 1 - low, 1 + high)),   w_t = π(y_t) / π_old(y_t)
    L   = mean over answers of the sum over their tokens

The whole answer is one action and its KL part of its reward. Leaving the own sample out keeps the
baseline independent of it: with one step on fresh answers the gradient is REINFORCE's, without
bias. More steps, or older answers, need a ratio; it is the token's, as in PPO. (A ratio of whole
answers has the same gradient on fresh answers, and too much variance on old ones.)

Assumes rewards of one prompt are comparable, and K >= 2. Degenerate case: equal R give A = 0; with
β above 0 equal rewards do not yet mean equal R.

The paper's runs: K of 2 and 4, β = 0.03, lr 1e-6.
"""

from __future__ import annotations

from pydantic import Field

from posttrain import ops
from posttrain.algorithms._rewards import rewards_less_kl
from posttrain.algorithms._terms import clipped_terms, token_ratio
from posttrain.config.policy_gradient import Aggregation, ClippedConfig
from posttrain.ports import AdvantageInputs, Advantages, LossInputs, LossTerms, Needs

NEEDS = Needs(groups=True, reference=True)


class Config(ClippedConfig):
    """Settings of RLOO."""

    kl_in_reward: float = Field(default=0.03, ge=0.0)
    """β of the KL to the stage's starting model, taken off each answer's reward."""
    aggregation: Aggregation = "seq-mean-token-sum"
    """How token losses become one number; the sum per answer is REINFORCE's own estimator."""


def advantages(inputs: AdvantageInputs, config: Config) -> Advantages:
    """[T] reward minus the other samples' mean, on each token. ValueError for groups of one."""
    rewards_GK = rewards_less_kl(inputs)
    advantages_GK = rewards_GK - ops.baselines.leave_one_out(rewards_GK)
    return Advantages(ops.baselines.over_tokens(advantages_GK, inputs.lengths_B).detach())


def loss(inputs: LossInputs, config: Config) -> LossTerms:
    """The clipped surrogate, and the KL term where β is in the loss."""
    return clipped_terms(inputs, config, token_ratio(inputs))
