"""Quantiles of more numbers than fit into memory, from an even sample of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SAMPLE = 1 << 22  # numbers kept; a tail of one in 10,000 is then known from 200 to 400 of them


@dataclass(slots=True)
class Quantiles:
    """Every number at first; once there are too many every second one, every fourth, ... The
    smallest and the largest are always exact.
    """

    limit: int = SAMPLE
    smallest: float = float("inf")
    largest: float = float("-inf")
    _step: int = 1
    _skip: int = 0  # of the next numbers, before one is taken again; less than a step
    _taken: list[Tensor] = field(default_factory=list)
    _count: int = 0

    def add(self, values: Tensor) -> None:
        """Numbers of any shape. In the same order they make the same sample."""
        flat = values.flatten()
        if not flat.numel():
            return
        self.smallest = min(self.smallest, float(flat.min()))
        self.largest = max(self.largest, float(flat.max()))
        while self._count + flat.numel() // self._step + 1 > self.limit:
            self._thin_out()
        self._taken.append(flat[self._skip :: self._step].clone())
        self._count += self._taken[-1].numel()
        self._skip = (self._skip - flat.numel()) % self._step

    def at_rank(self, share: float) -> float:
        """The number below which lies `share` of all: 0 is the smallest, 1 the largest.

        Raises ValueError where none were added.
        """
        sample = self._sample()
        if share <= 0.0 or share >= 1.0:
            return self.largest if share > 0.0 else self.smallest
        return float(sample.kthvalue(1 + int(share * (self._count - 1))).values)

    def top(self, share: float) -> float:
        """The smallest of the largest `share` of all numbers; at least one is in there.

        Raises ValueError where none were added.
        """
        kept = max(1, int(share * self._count + 1e-6))
        return float(self._sample().kthvalue(self._count - kept + 1).values)

    def _sample(self) -> Tensor:
        import torch

        if not self._taken:
            raise ValueError("no numbers, so there are no quantiles")
        self._taken = [torch.cat(self._taken)]
        return self._taken[0]

    def _thin_out(self) -> None:
        """Let go of every second number that was taken, and take half as many from now on."""
        if self._taken:
            if self._count % 2:  # the last one stays, so the next one is a step later
                self._skip += self._step
            self._taken = [self._sample()[::2].clone()]
            self._count = self._taken[0].numel()
        self._step *= 2
