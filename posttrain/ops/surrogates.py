"""Surrogate losses of policy gradients, per token."""

from __future__ import annotations

import torch
from torch import Tensor

from posttrain.ops.checks import check_floating, check_same_shape
from posttrain.ops.masked import sequence_means

MAX_LOG_RATIO = 20.0  # exp() stays in fp32 range; such a ratio is clipped anyway
MAX_SEQUENCE_LOG_RATIO = 10.0  # a mean over many tokens that is further off is no estimate


def ratio(logprobs_T: Tensor, old_logprobs_T: Tensor) -> Tensor:
    """[T] how much likelier each token is now: exp(new - old), the log-ratio held to ±20."""
    check_same_shape(logprobs_T=logprobs_T, old_logprobs_T=old_logprobs_T)
    check_floating(logprobs_T=logprobs_T, old_logprobs_T=old_logprobs_T)
    return torch.exp((logprobs_T - old_logprobs_T).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))


def sequence_ratio(
    logprobs_T: Tensor,
    old_logprobs_T: Tensor,
    mask_T: Tensor,
    sequence_T: Tensor,
    num_sequences: int,
) -> Tensor:
    """[T] geometric mean of its sequence's ratios, at each token (GSPO-token, 2507.18071).

        log s = 1/|y| · Σ_t (new - old)        at token t: exp(new_t - sg(new_t) + sg(log s))

    Every token of a sequence has the same value, and the gradient of its own log-prob; the exponent
    is held to ±10. A sequence without a masked-in token has the ratio 1.
    """
    check_same_shape(logprobs_T=logprobs_T, old_logprobs_T=old_logprobs_T, mask_T=mask_T)
    check_floating(logprobs_T=logprobs_T, old_logprobs_T=old_logprobs_T)
    log_ratio_T = (logprobs_T - old_logprobs_T).detach()
    means_B = sequence_means(log_ratio_T, mask_T, sequence_T, num_sequences)
    exponent_T = logprobs_T - logprobs_T.detach() + means_B[sequence_T]
    return torch.exp(exponent_T.clamp(-MAX_SEQUENCE_LOG_RATIO, MAX_SEQUENCE_LOG_RATIO))


def clipped(ratio_T: Tensor, advantages_T: Tensor, clip_low: float, clip_high: float) -> Tensor:
    """[T] PPO's loss: max(-A·w, -A·clip(w, 1 - low, 1 + high)) (Schulman et al. 2017, eq. 7)."""
    check_same_shape(ratio_T=ratio_T, advantages_T=advantages_T)
    inside_T = ratio_T.clamp(1.0 - clip_low, 1.0 + clip_high)
    return torch.maximum(-advantages_T * ratio_T, -advantages_T * inside_T)


def dual_clipped(losses_T: Tensor, advantages_T: Tensor, limit: float) -> Tensor:
    """[T] min(L, -limit·A) where A < 0 (Ye et al. 2020, arXiv 1912.09729).

    The plain clip leaves a bad token that grew likelier without a bound; this one ends its gradient
    once the ratio is above `limit`, which is more than 1.
    """
    check_same_shape(losses_T=losses_T, advantages_T=advantages_T)
    return torch.where(advantages_T < 0, torch.minimum(losses_T, -limit * advantages_T), losses_T)


def soft_gated(
    ratio_T: Tensor, advantages_T: Tensor, temperature_good: float, temperature_bad: float
) -> Tensor:
    """[T] -A·(4/τ)·σ(τ·(w - 1)), τ by the advantage's sign (SAPO, arXiv 2511.20347).

    In place of the clip's edge the gradient fades: at w = 1 its factor is 1, as without a gate, and
    it falls to 0 on both sides, the sooner the higher τ.
    """
    check_same_shape(ratio_T=ratio_T, advantages_T=advantages_T)
    good_T = torch.full_like(ratio_T, temperature_good)
    temperature_T = torch.where(advantages_T > 0, good_T, temperature_bad)
    gate_T = 4.0 / temperature_T * torch.sigmoid(temperature_T * (ratio_T - 1.0))
    return -advantages_T * gate_T


def weighted_logprobs(logprobs_T: Tensor, weights_T: Tensor, advantages_T: Tensor) -> Tensor:
    """[T] -sg(w)·A·log π: REINFORCE with an importance weight per token (CISPO, 2506.13585).

    Bounding a weight bounds a token's gradient and never takes it away, as PPO's clip does.
    """
    check_same_shape(logprobs_T=logprobs_T, weights_T=weights_T, advantages_T=advantages_T)
    return -weights_T.detach() * advantages_T * logprobs_T


def clipped_low(ratio_T: Tensor, advantages_T: Tensor, clip_low: float) -> Tensor:
    """[T] True where the lower clip took the gradient: a bad token already made unlikely."""
    return (advantages_T < 0) & (ratio_T < 1.0 - clip_low)


def clipped_high(ratio_T: Tensor, advantages_T: Tensor, clip_high: float) -> Tensor:
    """[T] True where the upper clip took the gradient: a good token already made likely."""
    return (advantages_T > 0) & (ratio_T > 1.0 + clip_high)
