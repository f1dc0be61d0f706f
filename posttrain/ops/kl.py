"""Estimators of KL(π‖π_ref) per token, from tokens sampled by π. d = log π - log π_ref.

Detached, in a reward, k1 is the right one. As a loss term only k2 has the gradient of KL(π‖π_ref),
and k3+ with it; k3's is that of KL(π_ref‖π), and k1's is zero on average.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from posttrain.ops.checks import check_floating, check_same_shape
from posttrain.ops.surrogates import MAX_LOG_RATIO

Estimator = Literal["k1", "k2", "k3", "k3+", "abs"]


def k1(logprobs_T: Tensor, reference_logprobs_T: Tensor) -> Tensor:
    """[T] d: unbiased, may be negative."""
    return _difference(logprobs_T, reference_logprobs_T)


def k2(logprobs_T: Tensor, reference_logprobs_T: Tensor) -> Tensor:
    """[T] d²/2: never negative, biased in value, right in gradient."""
    return 0.5 * _difference(logprobs_T, reference_logprobs_T).square()


def k3(logprobs_T: Tensor, reference_logprobs_T: Tensor) -> Tensor:
    """[T] exp(-d) - 1 + d: never negative, unbiased, low variance (GRPO's term, 2402.03300)."""
    difference_T = _difference(logprobs_T, reference_logprobs_T)
    return torch.exp(-difference_T.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)) - 1.0 + difference_T


def k3_plus(logprobs_T: Tensor, reference_logprobs_T: Tensor) -> Tensor:
    """[T] the value of k3 with the gradient of k2 (k2 - sg(k2) + sg(k3)): low variance to read, the
    right direction to follow.
    """
    k2_T = k2(logprobs_T, reference_logprobs_T)
    return k2_T - k2_T.detach() + k3(logprobs_T, reference_logprobs_T).detach()


def absolute(logprobs_T: Tensor, reference_logprobs_T: Tensor) -> Tensor:
    """[T] |d|: no estimate of the KL, a distance that does not cancel."""
    return _difference(logprobs_T, reference_logprobs_T).abs()


def estimate(name: Estimator, logprobs_T: Tensor, reference_logprobs_T: Tensor) -> Tensor:
    """[T] by the estimator's name."""
    estimators = {"k1": k1, "k2": k2, "k3": k3, "k3+": k3_plus, "abs": absolute}
    return estimators[name](logprobs_T, reference_logprobs_T)


def adapted_coefficient(
    coefficient: float, kl_nats: float, target_nats: float, horizon: int, num_sequences: int
) -> float:
    """β for the next batch, moved so that the KL goes to its target (Ziegler et al. 2019, §2.2).

        β · (1 + clip(KL/target - 1, -0.2, 0.2) · num_sequences/horizon)

    `kl_nats` is the batch's mean of k1 summed over each sequence. In `horizon` sequences far off
    the target β changes by 20 %, whatever the batch size; by no more in one batch.
    """
    error = min(max(kl_nats / target_nats - 1.0, -0.2), 0.2)
    return coefficient * (1.0 + error * min(1.0, num_sequences / horizon))


def _difference(logprobs_T: Tensor, reference_logprobs_T: Tensor) -> Tensor:
    check_same_shape(logprobs_T=logprobs_T, reference_logprobs_T=reference_logprobs_T)
    check_floating(logprobs_T=logprobs_T, reference_logprobs_T=reference_logprobs_T)
    return logprobs_T - reference_logprobs_T
