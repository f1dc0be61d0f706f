"""A causal language model between others, with gradients to where between.

    θ^(l) = θ_pre^(l) + Σ_i shares[i, l] · (θ_i^(l) - θ_pre^(l))

Only the shares get gradients. All models are in memory, once each, and the weights between them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from posttrain.model.packed import packed_inputs
from posttrain.model.stored_tensors import layer_of
from posttrain.ports import Answered


class InterpolatedModel:
    """Takes the models over: the weights of `others` become differences to `pre`, in place."""

    def __init__(self, pre: Any, others: Sequence[Any]) -> None:
        self._model = pre.requires_grad_(False)
        self._pre: dict[str, Tensor] = dict(pre.named_parameters())
        self._layers = {name: layer_of(name) for name in self._pre}
        num_layers = 1 + max(
            (each for each in self._layers.values() if each is not None), default=-1
        )
        self._column = {
            name: num_layers if layer is None else layer for name, layer in self._layers.items()
        }
        self._changes: list[dict[str, Tensor]] = []
        with torch.no_grad():
            for other in others:
                changes = dict(other.requires_grad_(False).named_parameters())
                for name, weight in changes.items():
                    weight.sub_(self._pre[name])
                self._changes.append(changes)
        counts = [0] * num_layers
        for name, module in pre.named_modules():
            layer = layer_of(f"{name}.")
            if layer is not None and isinstance(module, nn.Linear):
                counts[layer] += 1
        self.linear_layers = tuple(counts)  # number of linear maps in each layer

    def logits(self, shares_ML: Tensor, sequences: Sequence[Answered]) -> tuple[Tensor, Tensor]:
        """(fp32 logits [N, V] before each token of the answers, these tokens [N]).

        `shares_ML` has a row per other model, a column per layer and one for all that is outside
        the layers. A token that nothing precedes is left out. Raises ValueError for other shapes.
        """
        expected = (len(self._changes), len(self.linear_layers) + 1)
        if tuple(shares_ML.shape) != expected:
            raise ValueError(f"shares_ML is {tuple(shares_ML.shape)}, has to be {expected}")
        texts = [[*prompt, *answer] for prompt, answer in sequences]
        tokens_T = torch.tensor(list(itertools.chain.from_iterable(texts)), dtype=torch.long)
        wanted_N = torch.tensor(_answer_places(sequences), dtype=torch.long)
        packed = packed_inputs(tokens_T, [len(text) for text in texts])
        output = functional_call(
            self._model, self._weights(shares_ML), (), {**packed, "logits_to_keep": wanted_N - 1}
        )
        return output.logits[0].float(), tokens_T[wanted_N]

    def _weights(self, shares_ML: Tensor) -> dict[str, Tensor]:
        weights = dict(self._pre)
        for shares_L, changes in zip(shares_ML, self._changes, strict=True):
            for name, change in changes.items():
                weights[name] = weights[name] + shares_L[self._column[name]] * change
        return weights


def _answer_places(sequences: Sequence[Answered]) -> list[int]:
    """Where the answers' tokens stand when all sequences lie one after another."""
    places: list[int] = []
    start = 0
    for prompt, answer in sequences:
        end = start + len(prompt) + len(answer)
        places += range(start + max(1, len(prompt)), end)
        start = end
    return places
