"""Surrogate losses of policy gradients, per token."""

from __future__ import annotations

import torch
from torch import Tensor

from posttrain.ops.checks import check_floating, check_same_shape

MAX_LOG_RATIO = 20.0  # exp() stays in fp32 range; such a ratio is clipped anyway


def ratio(logprobs_T: Tensor, old_logprobs_T: Tensor) -> Tensor:
    """[T] how much likelier each token is now: exp(new - old), the log-ratio held to ±20."""
    check_same_shape(logprobs_T=logprobs_T, old_logprobs_T=old_logprobs_T)
    check_floating(logprobs_T=logprobs_T, old_logprobs_T=old_logprobs_T)
    return torch.exp((logprobs_T - old_logprobs_T).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))


def clipped(ratio_T: Tensor, advantages_T: Tensor, clip_low: float, clip_high: float) -> Tensor:
    """[T] PPO's loss: max(-A·w, -A·clip(w, 1 - low, 1 + high)) (Schulman et al. 2017, eq. 7)."""
    check_same_shape(ratio_T=ratio_T, advantages_T=advantages_T)
    inside_T = ratio_T.clamp(1.0 - clip_low, 1.0 + clip_high)
    return torch.maximum(-advantages_T * ratio_T, -advantages_T * inside_T)


def clipped_low(ratio_T: Tensor, advantages_T: Tensor, clip_low: float) -> Tensor:
    """[T] True where the lower clip took the gradient: a bad token already made unlikely."""
    return (advantages_T < 0) & (ratio_T < 1.0 - clip_low)


def clipped_high(ratio_T: Tensor, advantages_T: Tensor, clip_high: float) -> Tensor:
    """[T] True where the upper clip took the gradient: a good token already made likely."""
    return (advantages_T > 0) & (ratio_T > 1.0 + clip_high)
