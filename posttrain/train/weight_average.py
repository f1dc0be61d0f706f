"""A moving average of the weights while they are trained (EMA): the stage's model, in the end.

    e_0 = θ_0,   e ← d · e + (1 - d) · θ,   d = min(decay, (1 + t) / (10 + t)) after t updates

One update per optimiser step. Kept in fp32, as the weights are while they are trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from posttrain import ops
from posttrain.train.sharding import like


class WeightAverage:
    """A shadow beside each trained parameter, sharded as it is."""

    def __init__(self, named: Iterable[tuple[str, Any]], decay: float) -> None:
        """It starts at what the parameters are now."""
        self._parameters = dict(named)
        self._decay = decay
        self.tensors = {name: p.detach().clone() for name, p in self._parameters.items()}
        self.num_updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """After an optimiser step."""
        decay = ops.ema.decay_at(self.num_updates, self._decay)
        for name, parameter in self._parameters.items():
            self.tensors[name] = ops.ema.updated(self.tensors[name], parameter.detach(), decay)
        self.num_updates += 1

    def load(self, tensors: Mapping[str, Tensor], num_updates: int) -> None:
        """Go on from a checkpoint; `tensors` are whole, and known to every rank."""
        self.tensors = {
            name: like(tensors[name], parameter) for name, parameter in self._parameters.items()
        }
        self.num_updates = num_updates

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Meanwhile the model computes with the average. For models that are not sharded."""
        trained = {name: p.data for name, p in self._parameters.items()}
        try:
            for name, parameter in self._parameters.items():
                parameter.data = self.tensors[name]
            yield
        finally:
            for name, parameter in self._parameters.items():
                parameter.data = trained[name]
