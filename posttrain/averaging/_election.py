"""The sign election of TIES, which DARE can end with as well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def elected_mean(tasks: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Per entry the weighted mean of those changes that go the way of the weighted sum.

    A sum of 0 counts as positive. Zeros do not vote; where nobody goes that way the result is 0.
    Raises ValueError for a negative weight: its denominators would mean nothing.
    """
    if min(weights) < 0:
        raise ValueError(f"a weight is {min(weights):g}; the election needs 0 or more")
    total = tasks[0] * weights[0]
    for task, weight in zip(tasks[1:], weights[1:], strict=True):
        total.add_(task, alpha=weight)
    is_up = total >= 0
    summed, counted = total.zero_(), total.new_zeros(total.shape)
    for task, weight in zip(tasks, weights, strict=True):
        agrees = ((task > 0) & is_up) | ((task < 0) & ~is_up)
        summed.add_(task * agrees, alpha=weight)
        counted.add_(agrees, alpha=weight)
    return summed.div_(counted.masked_fill_(counted == 0, 1.0))
