"""Arithmetic that averaging methods share. All tensors are fp32 or fp64; none is written into."""

from __future__ import annotations

from typing import TYPE_CHECKING

from posttrain.ports import TensorVersions

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 1 << 20  # elements; small enough for the caches of a core


def mixed(pre: Tensor, post: Tensor, weight_pre: float) -> Tensor:
    """w·pre + (1 - w)·post. At 0 and 1 it is `post` or `pre` itself.

    Raises ValueError for a weight outside 0..1.
    """
    if not 0.0 <= weight_pre <= 1.0:
        raise ValueError(f"weight_pre is {weight_pre}; it is a share, 0 to 1")
    if weight_pre == 0.0:
        return post
    if weight_pre == 1.0:
        return pre
    return (post * (1.0 - weight_pre)).add_(pre, alpha=weight_pre)


def base(versions: TensorVersions) -> Tensor:
    """The model before training. Raises ValueError where there is none."""
    if versions.pre is None:
        raise ValueError(f"{versions.name}: this method needs `pre`")
    return versions.pre


def task_vectors(versions: TensorVersions) -> list[Tensor]:
    """τ_i = θ_i - θ_pre of every model."""
    pre = base(versions)
    return [model - pre for model in versions.models]


def weights_of(versions: TensorVersions) -> tuple[float, ...]:
    """One weight per model; 1 each where none are given. Raises ValueError for another number."""
    weights = versions.weights or (1.0,) * len(versions.models)
    if len(weights) != len(versions.models):
        raise ValueError(f"{len(weights)} weights for {len(versions.models)} models")
    return weights


def inner_product(first: Tensor, second: Tensor) -> float:
    """Sum of products, in fp64: in fp32 the sum over a large tensor is off in the fourth digit."""
    parts = zip(first.flatten().split(CHUNK), second.flatten().split(CHUNK), strict=True)
    return sum(float(a.double() @ b.double()) for a, b in parts)
