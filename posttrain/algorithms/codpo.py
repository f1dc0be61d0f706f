"""CODPO: constrained online DPO, of CGPO (Xu et al. 2024, arXiv 2409.20370).

    y+  the highest reward among a prompt's samples that violate no constraint
    y-  the lowest among those that violate one; where none does, the lowest of all
    z   = β·(log π(y+)/π_ref(y+) - log π(y-)/π_ref(y-))          log-ratios summed over an answer
    L   = mean over prompts of  -log σ(z) - λ/|y+| · log π(y+)

The two answers of a pair may lie in different micro-batches, so the loss is written as a policy
gradient. DPO's gradient is -β·σ(-z)·(∇log π(y+) - ∇log π(y-)), and the likelihood's has the same
form: each is a number times the gradient of an answer's log-prob. So

    A   = β·σ(-z) + λ/|y+| on y+,   -β·σ(-z) on y-,   0 on all others
    L_t = max(-A·w_t, -A·clip(w_t, 1 - low, 1 + high)),   w_t = π(y_t) / π_old(y_t)

has the gradient of L, with z of the log-probs at which the answers were sampled. Its value is not
L's, and means nothing. (The printed sign of the likelihood's term would make y+ less likely.)

Assumes that the weights that sampled are those that are trained: then w = 1 and the gradient is
exact. In later steps on a batch, and on older answers, σ(-z) is still that of the sampling weights:
it does not fall as the pair comes apart, and the clip is what ends the push. With another
`aggregation`, or weights of `off_policy`, the tokens of a pair weigh differently, and the gradient
is near DPO's only.

Degenerate cases: a prompt teaches nothing where no sample satisfies all constraints, or where none
violates one and all rewards are equal. `gated` gives all violating answers 0: of equal ones y- is
the one that violates most constraints. Without constraints it is DPO on the best and the worst of
K. As in DPO, log π(y+) may fall as long as log π(y-) falls faster; λ is against that.
"""

from __future__ import annotations

from pydantic import Field

from posttrain import ops
from posttrain.algorithms._constraints import (
    answers_per_prompt,
    chosen_tokens,
    log_ratios,
    violations,
)
from posttrain.algorithms._rewards import rewards_less_kl
from posttrain.algorithms._terms import clipped_terms, token_ratio
from posttrain.config.policy_gradient import Aggregation, ClippedConfig
from posttrain.ports import AdvantageInputs, Advantages, LossInputs, LossTerms, Needs

NEEDS = Needs(groups=True, reference=True)


class Config(ClippedConfig):
    """Settings of CODPO."""

    beta: float = Field(default=0.1, gt=0)
    """β: how near the policy stays to the stage's starting model, as in DPO."""
    sft_weight: float = Field(default=1.0, ge=0)
    """λ: what the better answer's mean log-prob weighs, so that it does not fall."""
    aggregation: Aggregation = "seq-mean-token-sum"
    """How token losses become one number; with the sum per answer the gradient is DPO's."""


def needs(config: Config) -> Needs:
    """The reference in any case: DPO's margin is measured against it."""
    return NEEDS


def advantages(inputs: AdvantageInputs, config: Config) -> Advantages:
    """[T] what multiplies each answer's gradient. Raises ValueError for groups of one."""
    preferred_GK, avoided_GK = ops.constraints.pair(rewards_less_kl(inputs), violations(inputs))
    sign_GK = preferred_GK.float() - avoided_GK.float()
    margin_G1 = (sign_GK * log_ratios(inputs)).sum(1, keepdim=True)
    push_G1 = config.beta * (-config.beta * margin_G1).sigmoid()
    likelihood_GK = config.sft_weight / chosen_tokens(inputs).clamp(min=1.0)
    gradient_GK = push_G1 * sign_GK + likelihood_GK * preferred_GK
    advantages_GK = answers_per_prompt(inputs) * gradient_GK
    advantages_T = ops.baselines.over_tokens(advantages_GK, inputs.lengths_B)
    is_pair_G = preferred_GK.any(1)
    metrics = {"groups/pair_share": float(is_pair_G.float().mean())}
    if is_pair_G.any():
        metrics["policy/pair_margin_nats"] = float(margin_G1[is_pair_G].mean())
    return Advantages(advantages_T.detach(), metrics=metrics)


def loss(inputs: LossInputs, config: Config) -> LossTerms:
    """The clipped surrogate, and the KL term where β is in the loss."""
    return clipped_terms(inputs, config, token_ratio(inputs))
