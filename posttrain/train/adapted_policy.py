"""A policy of which only adapters are trained: what it sends, and what it leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from posttrain.config.optimiser import OptimiserConfig
from posttrain.config.restraints import UNRESTRAINED, Restraints
from posttrain.model.load import DTYPES, save_model
from posttrain.model.lora import (
    adapted_layers,
    adapter_matrices,
    base_folder,
    has_adapters,
    merged_parameters,
    save_adapter,
)
from posttrain.train.policy import Policy
from posttrain.train.ranks import Ranks
from posttrain.train.sharding import whole
from posttrain.weight_sync.adapter import adapter_tensors, base_checksum


def make_policy(
    model: Any,
    tokenizer: Any,
    config: OptimiserConfig,
    precision: str,
    ranks: Ranks,
    restraints: Restraints = UNRESTRAINED,
) -> Policy:
    """The policy for a model with adapters (`model.lora.add_adapters`) or without; `restraints` are
    for a model without.
    """
    if has_adapters(model):
        return AdaptedPolicy(model, tokenizer, config, precision, ranks)
    return Policy(model, tokenizer, config, precision, ranks, restraints)


class AdaptedPolicy(Policy):
    """Optimiser state and checkpoints hold the adapters alone; engines are sent them alone."""

    def __init__(
        self, model: Any, tokenizer: Any, config: OptimiserConfig, precision: str, ranks: Ranks
    ) -> None:
        folder = base_folder(model)
        self._scaling = next(iter(adapted_layers(model).values())).scaling
        self._base_checksum = ranks.from_first(
            lambda: base_checksum(folder), "the checksum of the model to start from"
        )
        super().__init__(model, tokenizer, config, precision, ranks)

    def published_weights(self) -> dict[str, Tensor]:
        """The adapter in fp32: engines merge in fp32, and round the sum to their format."""
        matrices = self._gathered(adapter_matrices(self.model))
        if not self._ranks.is_first:
            return {}
        return adapter_tensors(matrices, self._scaling, self._base_checksum)

    def export(self, directory: Path) -> None:
        """Write an ordinary model folder, merged, and the adapter into `adapter/` beside it."""
        dtype = DTYPES[self._precision]
        merged = self._gathered(
            (name, value.cpu()) for name, value in merged_parameters(self.model, dtype, whole)
        )
        matrices = self._gathered(adapter_matrices(self.model))

        def write() -> None:
            save_adapter(self.model, matrices, directory.parent / "adapter")
            save_model(self.model, self._tokenizer, directory, self._precision, merged)

        self._ranks.from_first(write, "writing the model")
