"""What online algorithms do with an optimiser batch's rewards before any baseline.

The KL in a reward is k1, of the tokens as they were sampled: log π_behaviour - log π_ref. β is
`inputs.kl_coefficient`, not the configuration's: an adaptive controller may have moved it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from posttrain import ops
from posttrain.ports import AdvantageInputs

if TYPE_CHECKING:
    from torch import Tensor


def checked_rewards(inputs: AdvantageInputs) -> Tensor:
    """[G, K] fp32. Raises ValueError where rewards and answers do not fit, or one is not finite."""
    rewards_GK = inputs.rewards_GK
    ops.checks.check_rank(2, rewards_GK=rewards_GK)
    if rewards_GK.numel() != inputs.lengths_B.numel():
        raise ValueError(f"{rewards_GK.numel()} rewards for {inputs.lengths_B.numel()} answers")
    wrong = (~rewards_GK.isfinite()).nonzero()
    if len(wrong):
        group, sample = wrong[0].tolist()
        value = float(rewards_GK[group, sample])
        raise ValueError(f"the reward of sample {sample} of prompt {group} is {value}")
    return rewards_GK.float()


def kl_per_token(inputs: AdvantageInputs) -> Tensor:
    """[T] k1 in nats, detached; zeros where the reward is not charged for it."""
    if inputs.kl_coefficient == 0.0:
        return inputs.behaviour_logprobs_T.new_zeros(inputs.mask_T.shape).float()
    if inputs.reference_logprobs_T is None:
        raise ValueError("kl_coefficient is above 0, but no reference log-probs were given")
    return ops.kl.k1(inputs.behaviour_logprobs_T.float(), inputs.reference_logprobs_T.float())


def rewards_less_kl(inputs: AdvantageInputs) -> Tensor:
    """[G, K] r - β·Σ_t k1_t: the whole answer as one action, charged for its whole KL."""
    rewards_GK = checked_rewards(inputs)
    if inputs.kl_coefficient == 0.0:
        return rewards_GK
    nothing_B = rewards_GK.new_zeros(rewards_GK.numel())
    charges_T = ops.returns.token_rewards(
        nothing_B, kl_per_token(inputs), inputs.kl_coefficient, inputs.lengths_B, inputs.mask_T
    )
    sequence_T = ops.masked.sequence_indices(inputs.lengths_B)
    charges_B = ops.masked.sequence_sums(charges_T, sequence_T, len(inputs.lengths_B))
    return rewards_GK + charges_B.view_as(rewards_GK)
