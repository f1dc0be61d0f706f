"""vLLM's own NCCL weight-transfer engines as the two ends of our collective.

vLLM's trainer engine drives the engines by remote calls (init, start, update, finish). Here the
coordinator and the store have told them everything already, so those calls do nothing, and only
vLLM's data path is used: the rendezvous and the packed broadcast. Needs GPUs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

from posttrain.errors import EngineFailed
from posttrain.weight_sync.nccl_meeting import Group, Shipment

PACKED_BUFFER_BYTES = 256 << 20  # per broadcast; both sides cut the stream at the same places


class _AlreadyTold:
    """vLLM's control plane (VLLMWeightSyncClient), where nothing is left to say."""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None: ...

    def start_weight_update(self) -> None: ...

    def update_weights(self, update_info: Any) -> None: ...

    def finish_weight_update(self, weight_version: str | None = None) -> None: ...


class _Snapshot(WeightSource):
    """The tensors of the version that is sent next."""

    def __init__(self, device: int) -> None:
        self._device = torch.device("cuda", device)
        self.tensors: Mapping[str, torch.Tensor] = {}

    def metadata(self) -> list[ParamMeta]:
        return [ParamMeta(n, t.dtype, tuple(t.shape)) for n, t in self.tensors.items()]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        """One by one: what several ranks put together lies on the CPU, and what is sent again."""
        for name, tensor in self.tensors.items():
            yield name, tensor.to(self._device)


class VllmSender:
    """Rank 0's end (`nccl_publisher.Sender`). Blocks until all ranks of the group are there.

    `device` is the trainer's: it is opened in a thread, and a thread starts on device 0.
    """

    def __init__(self, device: int, group: Group, seconds: float) -> None:
        self._device = device
        torch.accelerator.set_device_index(device)
        self._source = _Snapshot(device)
        information = NCCLTrainerInitInfo(
            rank=0,
            master_address=group.address,
            master_port=group.port,
            world_size=group.world_size,
            packed=True,
            packed_buffer_size_bytes=PACKED_BUFFER_BYTES,
        )
        self._engine = WeightTransferTrainerFactory.trainer_init(
            information, client=_AlreadyTold(), source=self._source
        )
        _require_nccl(self._engine)

    def send(self, tensors: Mapping[str, torch.Tensor]) -> None:
        torch.accelerator.set_device_index(self._device)  # a thread starts on device 0
        self._source.tensors = tensors
        try:
            self._engine.send_weights()
        finally:
            self._source.tensors = {}

    def close(self) -> None:
        self._engine.shutdown()


class VllmReceiver:
    """One worker's end (`nccl_receiver.Receiver`), around the worker's own transfer engine."""

    def __init__(self, worker: Any, group: Group, first_rank: int) -> None:
        self._worker = worker
        self._engine = worker.weight_transfer_engine
        self._device = worker.device
        torch.accelerator.set_device_index(self._device)
        information = {
            "master_address": group.address,
            "master_port": group.port,
            "rank_offset": first_rank,
            "world_size": group.world_size,
            "packed": True,
            "packed_buffer_size_bytes": PACKED_BUFFER_BYTES,
        }
        self._engine.init_transfer_engine(self._engine.parse_init_info(information))
        _require_nccl(self._engine)

    def receive(self, shipment: Shipment) -> dict[str, torch.Tensor]:
        """vLLM's engine receives into a model that only keeps what it is given."""
        torch.accelerator.set_device_index(self._device)
        kept = _Kept()
        self._engine.set_weight_update_target(kept, self._engine.model_config)
        try:
            self._engine.update_weights(
                {
                    "names": list(shipment.names),
                    "dtype_names": list(shipment.dtypes),
                    "shapes": [list(shape) for shape in shipment.shapes],
                }
            )
        finally:
            self._engine.reset_weight_update_target()
        return kept.tensors

    def close(self) -> None:
        self._engine.shutdown()


class _Kept(torch.nn.Module):
    """Stands where vLLM expects the model. Each broadcast has its own buffer: views may stay."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: dict[str, torch.Tensor] = {}

    def load_weights(self, pairs: Any) -> None:
        for name, tensor in pairs:
            aligned = tensor.data_ptr() % 16 == 0 or math.prod(tensor.shape) == 0
            self.tensors[name] = tensor if aligned else tensor.clone()


def _require_nccl(engine: Any) -> None:
    """vLLM disables a communicator without NCCL or peers silently; nothing would ever arrive."""
    communicator = engine.model_update_group
    if communicator is None or communicator.disabled:
        raise EngineFailed(
            "weights cannot travel by nccl: vLLM found no NCCL library",
            help="cluster.weight_sync: shm, or install posttrain with its `gpu` extra",
        )
