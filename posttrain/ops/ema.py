"""Exponential moving averages of weights: a shadow that follows, and forgets slowly.

    e ← d · e + (1 - d) · θ

A shadow has to be kept in fp32: with d = 0.999 an update changes an entry by a thousandth of its
distance, which bf16 rounds away.
"""

from __future__ import annotations

from torch import Tensor

from posttrain.ops.checks import check_same_shape

WARM_UP = 10  # updates until the decay of the warm-up is about a half


def decay_at(num_updates: int, decay: float) -> float:
    """min(decay, (1 + t) / (10 + t)) after t updates: 0.1, 0.18, 0.25, ... up to `decay`."""
    if not 0.0 <= decay <= 1.0:
        raise ValueError(f"decay is {decay}; it is a share, 0 to 1")
    return min(decay, (1 + num_updates) / (WARM_UP + num_updates))


def updated(shadow: Tensor, value: Tensor, decay: float) -> Tensor:
    """d · shadow + (1 - d) · value, in the shadow's number format; neither is written into."""
    check_same_shape(shadow=shadow, value=value)
    return (shadow * decay).add_(value.to(shadow.dtype), alpha=1.0 - decay)
