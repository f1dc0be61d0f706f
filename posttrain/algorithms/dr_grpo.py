"""Dr. GRPO: GRPO done right (Liu et al. 2025, arXiv 2503.20783).

    A_i = r_i - mean(r)                             over the K samples of one prompt
    L_t = max(-A·w_t, -A·clip(w_t, 1 - low, 1 + high)),   w_t = π(y_t) / π_old(y_t)
    L   = mean over answers of the sum over their tokens, / max_new_tokens

GRPO without its two biases. Dividing by the group's spread lets prompts that are nearly always
right, or nearly always wrong, weigh most. Dividing by an answer's own length makes a long wrong
answer cheaper per token than a short one, so that wrong answers grow. Here the divisor is the same
for every answer: the stage's `sampling.max_new_tokens`. The sum's gradient is the policy
gradient's, up to that constant.

Assumes rewards of one prompt are comparable, and K >= 2. Degenerate case: equal rewards give A = 0.
Answers far below the token limit make small losses; AdamW does not mind, `max_grad_norm` will not
bind.

The paper's runs: lr 1e-6, K = 8, no KL, rewards 0 and 1.
"""

from __future__ import annotations

from posttrain import ops
from posttrain.algorithms._rewards import rewards_less_kl
from posttrain.algorithms._terms import clipped_terms, token_ratio
from posttrain.config.policy_gradient import Aggregation, ClippedConfig
from posttrain.ports import AdvantageInputs, Advantages, LossInputs, LossTerms, Needs

NEEDS = Needs(groups=True)


class Config(ClippedConfig):
    """Settings of Dr. GRPO."""

    aggregation: Aggregation = "seq-mean-token-sum-norm"
    """How token losses become one number; the paper divides every answer's sum by one constant."""


def advantages(inputs: AdvantageInputs, config: Config) -> Advantages:
    """[T] reward minus its group's mean, on each token. Raises ValueError for groups of one."""
    advantages_GK = ops.baselines.group_advantages(rewards_less_kl(inputs), "none")
    return Advantages(ops.baselines.over_tokens(advantages_GK, inputs.lengths_B).detach())


def loss(inputs: LossInputs, config: Config) -> LossTerms:
    """The clipped surrogate, and the KL term where β is above 0."""
    return clipped_terms(inputs, config, token_ratio(inputs))
