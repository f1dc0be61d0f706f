"""The weights that a stage started from, and what the distance to them costs.

The cost's gradient is added once per optimiser step, when the loss's own is complete and before it
is clipped: as if it stood in the loss, however many micro-batches and ranks there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from posttrain import ops
from posttrain.config.restraints import StartPenalty
from posttrain.train.sharding import local


class StartPoint:
    """Copies of parameters as they are now. Of sharded ones each rank keeps its own shards."""

    def __init__(
        self,
        parameters: Iterable[Tensor],
        penalty: StartPenalty,
        over_ranks: Callable[[Tensor], Tensor] = lambda sums: sums,
    ) -> None:
        """`over_ranks` sums what ranks hold different parts of; whole parameters need none."""
        self._kept = [(p, local(p).clone()) for p in parameters]
        self._penalty = penalty
        self._over_ranks = over_ranks

    @torch.no_grad()
    def add_gradient(self) -> dict[str, float]:
        """Add the penalty's gradient to the parameters' own; metrics of the distance. Collective
        where parameters are sharded.
        """
        l1, l2 = self._penalty.l1, self._penalty.l2
        sums = torch.zeros(2, dtype=torch.float64)
        for parameter, start in self._kept:
            difference = local(parameter) - start
            absolute = difference.abs().sum(dtype=torch.float64)
            squares = difference.square().sum(dtype=torch.float64)
            sums += torch.stack([absolute, squares]).cpu()
            if parameter.grad is None:  # no token reached it in this step
                parameter.grad = torch.zeros_like(parameter)
            local(parameter.grad).add_(ops.start_penalty.gradient(difference, l1, l2))
        absolute, squares = self._over_ranks(sums).tolist()
        return {
            "train/start_distance_l1": absolute,
            "train/start_distance_l2": math.sqrt(squares),
            "train/start_penalty": ops.start_penalty.value(absolute, squares, l1, l2),
        }
