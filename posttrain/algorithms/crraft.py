"""CRRAFT: calibrated-regularised reward-ranked fine-tuning, of CGPO (Xu et al. 2024, arXiv
2409.20370).

    y* = argmax of r_i over the samples of a prompt that violate no constraint and have
         log(π(y_i)/π_ref(y_i)) <= KL_max           summed over the answer
    L  = mean over prompts of  -r(y*) · Σ_t log π(y*_t)

Fine-tuning on the best of K, weighed by how good it is: with `calibrated` as the reward, by how
likely it beats the row's own answer. Samples that leave the reference by more than KL_max nats are
not learnt from, however good, so the policy stays near without a KL in the loss. What is learnt is
a likelihood: it has no ratio to the policy that sampled, and nothing to clip.

The mean over prompts counts those without an answer to learn, too: they are skipped. Of equal
rewards the first is learnt.

Assumes rewards of 0 or more, refused otherwise: a likelihood weighed below 0 has no lower bound.
Degenerate cases: where all samples violate, or the best earns 0, a prompt teaches nothing. One
sample per prompt is allowed, and learns every sample that may be learnt.
"""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field

from posttrain import ops
from posttrain.algorithms._constraints import (
    answers_per_prompt,
    log_ratios,
    rewards_of_zero_or_more,
    violations,
)
from posttrain.algorithms._rewards import rewards_less_kl
from posttrain.algorithms._terms import aggregate, kl_term, share, token_ratio
from posttrain.config.policy_gradient import Aggregation, PolicyGradientConfig
from posttrain.ports import AdvantageInputs, Advantages, LossInputs, LossTerms, Needs

NEEDS = Needs(reference=True)


class Config(PolicyGradientConfig):
    """Settings of CRRAFT."""

    kl_max: float = Field(default=10.0, gt=0)
    """Nats that an answer may be likelier than under the stage's starting model to be learnt."""
    aggregation: Aggregation = "seq-mean-token-sum"
    """How token losses become one number; the sum per answer is the likelihood of the whole."""


def needs(config: Config) -> Needs:
    """The reference in any case: the budget is measured against it."""
    return NEEDS


def advantages(inputs: AdvantageInputs, config: Config) -> Advantages:
    """[T] the best answer's reward on its tokens, 0 elsewhere. StageFailed for negative rewards."""
    rewards_GK = rewards_less_kl(replace(inputs, rewards_GK=rewards_of_zero_or_more(inputs)))
    is_near_GK = log_ratios(inputs) <= config.kl_max
    best_GK = ops.constraints.best(rewards_GK, (violations(inputs) == 0) & is_near_GK)
    weights_GK = best_GK * rewards_GK.clamp(min=0.0)  # a KL in the reward may take it below 0
    advantages_GK = answers_per_prompt(inputs) * weights_GK
    metrics = {
        "groups/learnt_share": float((weights_GK > 0).any(1).float().mean()),
        "answer/beyond_kl_max_share": float((~is_near_GK).float().mean()),
    }
    advantages_T = ops.baselines.over_tokens(advantages_GK, inputs.lengths_B)
    return Advantages(advantages_T.detach(), metrics=metrics)


def loss(inputs: LossInputs, config: Config) -> LossTerms:
    """The weighed likelihood, and the KL term where β is in the loss."""
    loss_T = -inputs.advantages_T * inputs.logprobs_T.float()
    metrics = {"policy/ratio_mean": share(token_ratio(inputs).detach(), inputs)}
    policy = aggregate(loss_T, inputs, config)
    return LossTerms(policy=policy, kl=kl_term(inputs, config), metrics=metrics)
