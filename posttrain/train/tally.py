"""A step's numbers, gathered over micro-batches and then over ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from posttrain.train.ranks import Ranks


@dataclass(slots=True)
class Tally:
    """Of some numbers the sum is kept, of others the largest. Every rank has the same names."""

    sums: dict[str, float] = field(default_factory=dict)
    largest: dict[str, float] = field(default_factory=dict)

    def add(self, values: Mapping[str, float], times: float = 1.0) -> None:
        """Sum `values`, each multiplied with `times`."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + times * float(value)

    def raise_to(self, values: Mapping[str, float]) -> None:
        """Keep the larger of each value and what was there."""
        for name, value in values.items():
            self.largest[name] = max(self.largest.get(name, value), value)

    def over_ranks(self, ranks: Ranks, what: str) -> Tally:
        """The same on every rank (collective)."""
        if ranks.num == 1:
            return self
        sums = ranks.all_reduce_sum(_vector(self.sums), what)
        largest = self.largest
        if largest:
            found = ranks.all_reduce_max(_vector(largest), what)
            largest = dict(zip(sorted(largest), found.tolist(), strict=True))
        return Tally(dict(zip(sorted(self.sums), sums.tolist(), strict=True)), largest)


def _vector(values: Mapping[str, float]) -> torch.Tensor:
    return torch.tensor([values[name] for name in sorted(values)], dtype=torch.float64)
