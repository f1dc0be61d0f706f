"""Shapes are checked before anything is computed: a broadcast by mistake trains on nonsense."""

from __future__ import annotations

import torch
from torch import Tensor


def check_same_shape(**tensors: Tensor) -> None:
    """Raise ValueError, naming both, where two tensors differ in shape. Names are the caller's."""
    (first_name, first), *others = tensors.items()
    for name, tensor in others:
        if tensor.shape != first.shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, {first_name} has {tuple(first.shape)}"
            )


def check_rank(rank: int, **tensors: Tensor) -> None:
    """Raise ValueError where a tensor has another number of dimensions than `rank`."""
    for name, tensor in tensors.items():
        if tensor.ndim != rank:
            raise ValueError(f"{name} has {tensor.ndim} dimensions, not {rank}")


def check_floating(**tensors: Tensor) -> None:
    """Raise TypeError where a tensor does not hold floating-point numbers."""
    for name, tensor in tensors.items():
        if not torch.is_floating_point(tensor):
            raise TypeError(f"{name} is {tensor.dtype}, not floating point")
