"""What vLLM's worker can do for a weight update, called through `collective_rpc`.

vLLM mixes `WorkerExtension` into its worker; importing this module registers the `shm` engine with
vLLM's weight-transfer factory. Every method works on the worker's own share of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from vllm.config import set_current_vllm_config

from posttrain.errors import PosttrainError
from posttrain.types import WeightVersion
from posttrain.weight_sync import held, shadow
from posttrain.weight_sync.adapter import (
    MergedWeights,
    holds_adapter,
    require_base,
    require_fitting,
)
from posttrain.weight_sync.nccl_receiver import NcclReceiver
from posttrain.weight_sync.shm_engine import read_location
from posttrain.weight_sync.transport import scheme_of

EXTENSION = "posttrain.weight_sync.worker_extension.WorkerExtension"


class WorkerExtension:
    """Methods and state of our own in vLLM's worker; `self` is that worker."""

    posttrain_watched: list[str]
    posttrain_received: Mapping[str, torch.Tensor] | None = None  # by nccl, not loaded yet
    posttrain_filled: tuple[torch.nn.Module, dict[str, held.Question]] | None = None
    posttrain_replaced: list[Any] | None = None
    posttrain_receiver: NcclReceiver | None = None

    def posttrain_watch(self: Any, location: str) -> list[str]:
        """Choose the layers that updates are checked on: those that hold these weights now."""
        self.posttrain_watched = held.matching_modules(self.get_model(), read_location(location))
        return self.posttrain_watched

    def posttrain_receive(
        self: Any,
        engine: str,
        version: WeightVersion,
        shapes: Mapping[str, tuple[int, ...]],
        tied: bool,
        base: str,
        deadline_s: float,
    ) -> PosttrainError | None:
        """Take part in the collective that brings `version`; hold what arrives.

        `base` is the model folder that the engine was given: adapters are merged into it. Returns
        what went wrong, as of an error that is raised vLLM's other processes tell only the text:
        WeightsDiffer where something else arrives than was published, or what is not the model's
        (the model stays as it is), WeightsGone where it is sent to others, DeadlineExceeded where
        nothing comes in time.
        """
        self.posttrain_received = None
        if self.posttrain_receiver is None:
            self.posttrain_receiver = NcclReceiver(
                engine,
                self.rank,
                lambda group, first_rank, seconds: _vllm_receiver(self, group, first_rank),
                lambda given, place: require_fitting(shapes, given, tied, place),
            )
        try:
            received = self.posttrain_receiver.receive(version, deadline_s)
            if holds_adapter(received):
                require_base(engine, received, base, version.location)
        except PosttrainError as error:
            return error
        self.posttrain_received = received
        return None

    def posttrain_fill(self: Any, location: str, base: str) -> list[str]:
        """Load other weights into a twin of the model, while the model goes on generating.

        Returns the watched layers whose tensors are others than those: none. The twin waits for
        `posttrain_swap`. Only where layers may get other tensors (see `shadow`).
        """
        self.posttrain_filled = self.posttrain_replaced = None
        received = self._posttrain_tensors(location, base)
        twin = shadow.twin_of(self.get_model())
        engine = self.weight_transfer_engine
        engine.set_weight_update_target(twin, engine.model_config)
        try:
            self._posttrain_load(received)
        finally:
            engine.reset_weight_update_target()
            shadow.end_loading(twin)
        stale, questions = held.compare(twin, received, self.posttrain_watched)
        self.posttrain_filled = (twin, questions)
        return stale

    def posttrain_swap(self: Any, location: str, base: str) -> list[str]:
        """Compute with other weights from here on; no step may run meanwhile.

        Hands over the twin that `posttrain_fill` made, or loads in place where there is none.
        Returns the watched layers that do not compute with the new weights: none. A twin with such
        a layer is not handed over: the old weights stay. Raises FileNotFoundError, with nothing
        changed, where the weights are gone.
        """
        filled, self.posttrain_filled = self.posttrain_filled, None
        model = self.get_model()
        if filled is None:
            received = self._posttrain_tensors(location, base)
            self._posttrain_load(received)
            return held.stale_modules(model, received, self.posttrain_watched)
        twin, questions = filled
        stale = held.wrong_answers(twin, questions)
        if not stale:
            self.posttrain_replaced = shadow.take_over(model, twin)
        return stale

    def posttrain_forget(self: Any) -> None:
        """Let go of weights that are not computed with: swapped out, refused, or loaded."""
        self.posttrain_filled = self.posttrain_replaced = self.posttrain_received = None

    def _posttrain_tensors(self: Any, location: str, base: str) -> Mapping[str, torch.Tensor]:
        if scheme_of(location) == "nccl":
            assert self.posttrain_received is not None
            received = self.posttrain_received
        else:
            received = read_location(location)
        if not holds_adapter(received):
            return received
        return MergedWeights(base, received, self.model_config.dtype, self.device)

    def _posttrain_load(self: Any, received: Mapping[str, torch.Tensor]) -> None:
        """Into the target of the worker's transfer engine: layer by layer, as vLLM loads."""
        engine = self.weight_transfer_engine
        with torch.no_grad(), set_current_vllm_config(self.vllm_config):
            engine.start_weight_update()
            engine.model.load_weights(received.items())
            engine.finish_weight_update()
            if self.device.type != "cpu":
                torch.accelerator.synchronize()


def _vllm_receiver(worker: Any, group: Any, first_rank: int) -> Any:
    from posttrain.weight_sync.nccl_link import VllmReceiver

    return VllmReceiver(worker, group, first_rank)
