"""What CGPO's update rules (crpg, crraft, codpo) read of an optimiser batch beside its rewards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from posttrain import ops
from posttrain.algorithms._rewards import checked_rewards
from posttrain.errors import StageFailed
from posttrain.ports import AdvantageInputs
from posttrain.types import JUDGE_PART

if TYPE_CHECKING:
    from torch import Tensor


def rewards_of_zero_or_more(inputs: AdvantageInputs) -> Tensor:
    """[G, K] fp32, for rules that multiply with them: a part of a negative reward would be more.

    Raises StageFailed for one, and ValueError as `checked_rewards` does.
    """
    rewards_GK = checked_rewards(inputs)
    below = (rewards_GK < 0).nonzero()
    if len(below):
        group, sample = below[0].tolist()
        raise StageFailed(
            f"the reward of sample {sample} of prompt {group} is {float(rewards_GK[group, sample])}"
            ", and the algorithm needs rewards of 0 or more",
            help="reward: {name: calibrated, score: ...}, whose values lie between 0 and 1",
        )
    return rewards_GK


def violations(inputs: AdvantageInputs) -> Tensor:
    """[G, K] fp32 how many judges each answer violates; zeros where the reward has no judges."""
    counts_GK = inputs.rewards_GK.float().new_zeros(inputs.rewards_GK.shape)
    for name, held_GK in inputs.reward_parts.items():
        if name.startswith(JUDGE_PART):
            counts_GK = counts_GK + (held_GK < 1.0)  # NaN, a judge of other prompts, is not below
    return counts_GK


def log_ratios(inputs: AdvantageInputs) -> Tensor:
    """[G, K] fp32 log(π/π_ref) of each answer as it was sampled, summed over the tokens that the
    policy chose, nats. Raises ValueError without a reference.
    """
    if inputs.reference_logprobs_T is None:
        raise ValueError(
            "answers are measured against the starting model, but no reference log-probs were given"
        )
    behaviour_T, reference_T = inputs.behaviour_logprobs_T, inputs.reference_logprobs_T
    return _sums(ops.kl.k1(behaviour_T.float(), reference_T.float()), inputs)


def chosen_tokens(inputs: AdvantageInputs) -> Tensor:
    """[G, K] fp32 how many tokens of each answer the policy chose."""
    return _sums(inputs.mask_T.float(), inputs)


def answers_per_prompt(inputs: AdvantageInputs) -> float:
    """Answers with a token, per prompt: makes the loss's mean over answers one over prompts."""
    return float((chosen_tokens(inputs) > 0).float().sum(1).mean())


def _sums(values_T: Tensor, inputs: AdvantageInputs) -> Tensor:
    sequence_T = ops.masked.sequence_indices(inputs.lengths_B)
    visible_T = values_T.masked_fill(inputs.mask_T == 0, 0.0)
    sums_B = ops.masked.sequence_sums(visible_T, sequence_T, inputs.lengths_B.numel())
    return sums_B.view(inputs.rewards_GK.shape)
