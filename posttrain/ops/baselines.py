"""What a reward is compared with: the other samples of the same prompt, or of the whole batch."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from posttrain.ops.checks import check_floating, check_rank

Scale = Literal["std", "batch", "none"]
"""std: divided by the group's own standard deviation (GRPO). batch: by that of all rewards of the
batch, so that very easy and very hard prompts do not weigh more. none: not divided (Dr. GRPO)."""


def group_mean(rewards_GK: Tensor) -> Tensor:
    """[G, 1] mean of each group; of equal rewards exactly that reward.

    Counted from the group's first reward on: otherwise the mean is rounded, and what is left of
    equal rewards, divided by a deviation of nearly 0, would be an advantage.
    """
    check_groups(rewards_GK)
    first_G1 = rewards_GK[:, :1]
    return first_G1 + (rewards_GK - first_G1).mean(dim=1, keepdim=True)


def group_std(rewards_GK: Tensor) -> Tensor:
    """[G, 1] standard deviation of each group, unbiased (divided by K - 1)."""
    check_groups(rewards_GK)
    return rewards_GK.std(dim=1, unbiased=True, keepdim=True)


def batch_mean(rewards_GK: Tensor) -> Tensor:
    """[] mean over all groups; of equal rewards exactly that reward, as in `group_mean`."""
    check_rank(2, rewards_GK=rewards_GK)
    check_floating(rewards_GK=rewards_GK)
    first = rewards_GK[0, 0]
    return first + (rewards_GK - first).mean()


def leave_one_out(rewards_GK: Tensor) -> Tensor:
    """[G, K] mean of the *other* samples of the group: (sum - own) / (K - 1) (RLOO, 2402.14740);
    of equal rewards exactly that reward, as in `group_mean`.
    """
    check_groups(rewards_GK)
    first_G1 = rewards_GK[:, :1]
    offsets_GK = rewards_GK - first_G1
    others_GK = offsets_GK.sum(dim=1, keepdim=True) - offsets_GK
    return first_G1 + others_GK / (rewards_GK.shape[1] - 1)


def group_advantages(rewards_GK: Tensor, scale: Scale, epsilon: float = 1e-6) -> Tensor:
    """[G, K] (r - mean of its group) / (std + epsilon), standard deviations unbiased.

    A group of equal rewards gets 0 under every scale.
    """
    advantages_GK = rewards_GK - group_mean(rewards_GK)
    if scale == "std":
        return advantages_GK / (group_std(rewards_GK) + epsilon)
    if scale == "batch":
        return advantages_GK / (rewards_GK.std(unbiased=True) + epsilon)
    if scale == "none":
        return advantages_GK
    raise ValueError(f"no scale {scale!r}")


def over_tokens(values_GK: Tensor, lengths_B: Tensor) -> Tensor:
    """[T] each sequence's value on each of its tokens, group after group, sample after sample."""
    check_rank(2, values_GK=values_GK)
    if lengths_B.numel() != values_GK.numel():
        raise ValueError(f"{lengths_B.numel()} lengths for {values_GK.numel()} sequences")
    return values_GK.reshape(-1).repeat_interleave(lengths_B)


def check_groups(rewards_GK: Tensor) -> None:
    """Raise ValueError where groups have no two samples, or rewards are no [G, K] of floats."""
    check_rank(2, rewards_GK=rewards_GK)
    check_floating(rewards_GK=rewards_GK)
    if rewards_GK.shape[1] < 2:
        raise ValueError("a group needs two or more samples to compare")
