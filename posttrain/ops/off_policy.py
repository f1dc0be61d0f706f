"""Tokens that another policy sampled: what they are compared with, and what they weigh.

Three policies meet in one step: behaviour (sampled the token, maybe versions ago), proximal (the
weights right before the step; the trust region's centre) and the current one. The decoupled
objective of AReaL (Fu et al. 2025, arXiv 2505.24298) clips π/π_prox, and weighs each token with

    w = π_prox / π_behaviour        detached

so that the clip measures this step, not the answer's age. The same w corrects for an engine that
computes other log-probs than the trainer under the same weights: clamped, it is truncated
importance sampling, masked it is masked importance sampling. One weight covers both; it is applied
once.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from posttrain.ops.checks import check_floating, check_same_shape
from posttrain.ops.masked import sequence_means
from posttrain.ops.surrogates import MAX_LOG_RATIO

Bound = Literal["cap", "mask", "clamp"]
"""cap: weights above `high` become 0. mask: those outside [low, high] become 0. clamp: they are
held to [low, high]."""


def interpolate(
    behaviour_logprobs_T: Tensor, logprobs_T: Tensor, versions_T: Tensor, step: int
) -> Tensor:
    """[T] proximal log-probs (nats) without a forward pass: log-linear between the other two.

    lp_b + a·(lp - lp_b), a = (v_prox - v_b) / (v - v_b) in [0, 1], where the step makes version
    v = step + 1 of v_prox = step, and `versions_T` says which v_b sampled each token (2505.24298,
    §5). A token sampled right before the step (v_b = v_prox) is its own centre.
    """
    check_same_shape(
        behaviour_logprobs_T=behaviour_logprobs_T, logprobs_T=logprobs_T, versions_T=versions_T
    )
    check_floating(behaviour_logprobs_T=behaviour_logprobs_T, logprobs_T=logprobs_T)
    behind_T = (step - versions_T).clamp(min=0).to(logprobs_T.dtype)
    share_T = behind_T / (behind_T + 1.0)
    return behaviour_logprobs_T + share_T * (logprobs_T - behaviour_logprobs_T)


def token_weights(proximal_logprobs_T: Tensor, behaviour_logprobs_T: Tensor) -> Tensor:
    """[T] exp(lp_prox - lp_b) of each token, detached, the log-ratio held to ±20."""
    return torch.exp(_log_ratio(proximal_logprobs_T, behaviour_logprobs_T))


def sequence_weights(
    proximal_logprobs_T: Tensor,
    behaviour_logprobs_T: Tensor,
    mask_T: Tensor,
    sequence_T: Tensor,
    num_sequences: int,
) -> Tensor:
    """[T] geometric mean of its sequence's token weights, at each token, detached.

    Only masked-in tokens count; a sequence without any weighs 1.
    """
    log_ratio_T = _log_ratio(proximal_logprobs_T, behaviour_logprobs_T)
    check_same_shape(log_ratio_T=log_ratio_T, mask_T=mask_T, sequence_T=sequence_T)
    return torch.exp(sequence_means(log_ratio_T, mask_T, sequence_T, num_sequences))[sequence_T]


def is_outside(weights_T: Tensor, bound: Bound, low: float, high: float) -> Tensor:
    """[T] True where `bounded` changes a weight. `cap` knows no lower bound."""
    above_T = weights_T > high
    return above_T if bound == "cap" else above_T | (weights_T < low)


def bounded(weights_T: Tensor, bound: Bound, low: float, high: float) -> Tensor:
    """[T] weights as they are applied.

    What becomes 0 stays in the denominators: otherwise a batch with many such tokens would silently
    take larger steps on the rest.
    """
    if bound == "clamp":
        return weights_T.clamp(low, high)
    outside_T = is_outside(weights_T, bound, low, high)
    return torch.where(outside_T, torch.zeros_like(weights_T), weights_T)


def _log_ratio(proximal_logprobs_T: Tensor, behaviour_logprobs_T: Tensor) -> Tensor:
    check_same_shape(
        proximal_logprobs_T=proximal_logprobs_T, behaviour_logprobs_T=behaviour_logprobs_T
    )
    check_floating(
        proximal_logprobs_T=proximal_logprobs_T, behaviour_logprobs_T=behaviour_logprobs_T
    )
    difference_T = (proximal_logprobs_T - behaviour_logprobs_T).detach()
    return difference_T.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
