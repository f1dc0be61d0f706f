"""vLLM's side of a weight update through shared memory: the `shm` weight-transfer engine.

vLLM's own back ends need GPUs. This one loads a flat file (or a model folder) of the same host
through vLLM's layer-wise reload, the only way that works on CPUs, where `load_weights` alone
meets matrices that were packed and freed. Importing this module registers the engine; the worker
does so through its `worker_extension_cls` (`worker_extension`).

Nothing here pauses: the caller makes sure that no step runs meanwhile and that the prefix cache is
emptied, because neither is checked by vLLM.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)

from posttrain.weight_sync.flat_file import read_weights
from posttrain.weight_sync.model_folder import read_model_folder

BACKEND = "shm"


@dataclass
class ShmInitInfo(WeightTransferInitInfo):
    """Nothing to agree on beforehand."""


@dataclass
class ShmUpdateInfo(WeightTransferUpdateInfo):
    """Where the weights lie: a flat file or a model folder."""

    location: str


class ShmWeightTransferEngine(WeightTransferEngine[ShmInitInfo, ShmUpdateInfo]):
    """Loads all weights of one location into the worker's model."""

    init_info_cls = ShmInitInfo
    update_info_cls = ShmUpdateInfo

    def init_transfer_engine(self, init_info: ShmInitInfo) -> None:
        """There is no connection to open."""

    def start_weight_update(self) -> None:
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: ShmUpdateInfo) -> None:
        model: Any = self.model  # vLLM's models have load_weights; torch's Module has not
        model.load_weights(read_location(update_info.location).items())

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        repack_output_head(self.model)

    def shutdown(self) -> None:
        """There is no connection to close."""


def repack_output_head(model: torch.nn.Module) -> None:
    """Pack vocabulary matrices again after a reload.

    A tied output head receives no tensor of its own, so the reload leaves its packed copy alone:
    the embedding is new, the head computes with the old weights, and nobody complains.
    """
    for module in model.modules():
        if isinstance(module, VocabParallelEmbedding) and hasattr(module, "cpu_linear"):
            dispatch_cpu_unquantized_gemm(module, remove_weight=False)


def read_location(location: str) -> dict[str, torch.Tensor]:
    """Tensors by name from a flat file or a model folder."""
    return read_model_folder(location) if Path(location).is_dir() else read_weights(location)


if BACKEND not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(BACKEND, ShmWeightTransferEngine)
