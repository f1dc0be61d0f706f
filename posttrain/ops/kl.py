"""Estimators of KL(π‖π_ref) per token, from tokens sampled by π. d = log π - log π_ref.

Detached, in a reward, k1 is the right one. As a loss term only k2 has the gradient of KL(π‖π_ref);
k3's is that of KL(π_ref‖π), and k1's is zero on average.
"""

from __future__ import annotations

import torch
from torch import Tensor

from posttrain.ops.checks import check_floating, check_same_shape
from posttrain.ops.surrogates import MAX_LOG_RATIO


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


def _difference(logprobs_T: Tensor, reference_logprobs_T: Tensor) -> Tensor:
    check_same_shape(logprobs_T=logprobs_T, reference_logprobs_T=reference_logprobs_T)
    check_floating(logprobs_T=logprobs_T, reference_logprobs_T=reference_logprobs_T)
    return logprobs_T - reference_logprobs_T
