"""How one vLLM engine takes other weights while it generates.

    receive and compare -> fill a twin of the model      the engine goes on generating
    swap                                                 between two steps: the stall
    let go of the old weights                            the engine goes on generating

Where layers may get other tensors (CPUs, no compilation) only pointers change hands in the stall,
after one vector has gone through each new layer. Elsewhere the weights are loaded in place, in the
stall. Running answers go back to the queue: their cached keys and values belong to the old weights.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from posttrain.errors import EngineFailed, PosttrainError, WeightsDiffer, WeightsGone
from posttrain.ports import EngineSpec
from posttrain.rollout.engine_thread import EngineThread, first_line
from posttrain.types import SyncReport, WeightVersion
from posttrain.weight_sync import model_folder
from posttrain.weight_sync.adapter import holds_adapter, require_base, require_fitting
from posttrain.weight_sync.checksum import checksum
from posttrain.weight_sync.flat_file import read_header, read_weights
from posttrain.weight_sync.transport import require_checksum, scheme_of

RECEIVE_DEADLINE_S = 120.0  # nccl: from asking for a version to holding it


class WeightUpdates:
    """The weights of one engine: which they are, and how others take their place."""

    def __init__(self, spec: EngineSpec, name: str, thread: EngineThread) -> None:
        self.version = 0  # what the engine computes with
        self._spec = spec
        self._name = name
        self._thread = thread
        self._lock = asyncio.Lock()
        self._shapes: Mapping[str, tuple[int, ...]] = {}
        self._tied = False
        self._base = spec.model_path  # the last model folder taken: adapters are merged into it

    def read_model(self) -> None:
        """Look at the model folder. Raises InputError where there is no model."""
        config = model_folder.read_config(self._spec.model_path)
        self._shapes = model_folder.folder_shapes(self._spec.model_path)
        self._tied = bool(config.get("tie_word_embeddings", False))

    def begin(self, engine: Any) -> None:
        """The engine has just started with the model folder's weights."""
        engine.set_weight_version("0")
        engine.collective_rpc("posttrain_watch", args=(self._spec.model_path,))

    async def take(self, version: WeightVersion) -> SyncReport:
        """See `VllmEngine.update_weights`."""
        begin = time.perf_counter()
        async with self._lock:
            if scheme_of(version.location) == "nccl":
                await self._receive(version)
            else:
                await asyncio.to_thread(self._verify, version)
            stall_ms = await self._change(version.location, version.version)
        return SyncReport(version.version, True, 1000 * (time.perf_counter() - begin), stall_ms)

    async def take_folder(self, path: str, version: int) -> None:
        """See `VllmEngine.load_model_folder`."""
        async with self._lock:
            model_folder.require_same_architecture(self._spec.model_path, path)
            self._require_tensors(model_folder.folder_shapes(path), path)
            await self._change(path, version)
            self._base = path

    # -- before the stall -------------------------------------------------------------------------

    def _verify(self, version: WeightVersion) -> None:
        """The shared-memory file is whole, the version asked for, and the model's."""
        try:
            header = read_header(version.location)
            received = read_weights(version.location)
        except FileNotFoundError as error:
            raise self._gone(version.version, version.location) from error
        except OSError as error:
            raise WeightsDiffer(
                f"engine {self._name} cannot read version {version.version}: {error.strerror}",
                place=version.location,
                help="weights travel through shared memory: engine and trainer share one host",
            ) from error
        if (header.attempt, header.version) != (version.attempt, version.version):
            raise WeightsDiffer(
                f"engine {self._name} was told to take version {version.version}, and found "
                f"version {header.version} there",
                place=version.location,
                help="publish the version again; the engine goes on with the weights it had",
            )
        self._require_tensors(
            {name: tuple(tensor.shape) for name, tensor in received.items()}, version.location
        )
        require_checksum(self._name, version, checksum(received))
        if holds_adapter(received):
            require_base(self._name, received, self._base, version.location)

    async def _receive(self, version: WeightVersion) -> None:
        """Each worker takes part in the collective and compares what arrived."""
        model = (self._shapes, self._tied, self._base)
        arguments = (self._name, version, *model, RECEIVE_DEADLINE_S)
        for error in await self._in_workers("posttrain_receive", *arguments):
            if error is not None:
                raise error

    async def _fill(self, location: str, version: int) -> None:
        try:
            workers = await self._in_workers("posttrain_fill", location, self._base)
            self._require_fresh(workers, location)
        except FileNotFoundError as error:
            raise self._gone(version, location) from error
        except PosttrainError:
            await self._in_workers("posttrain_forget")
            raise

    async def _in_workers(self, method: str, *arguments: Any) -> list[Any]:
        """Call a method of the engine's workers, while it generates where that can be."""
        engine = self._thread.engine
        if engine is None or self._spec.gpus > 1:  # workers in other processes: one call at a time
            return await self._thread.call(lambda e: e.collective_rpc(method, args=arguments))
        return await asyncio.to_thread(engine.collective_rpc, method, None, arguments)

    # -- the stall --------------------------------------------------------------------------------

    async def _change(self, location: str, version: int) -> float:
        """Compute with other weights from here on; for how long no step could run, in ms."""
        fills = self._spec.gpus == 0 and self._spec.eager
        if fills:
            await self._fill(location, version)

        def swap(engine: Any) -> float:
            begin = time.perf_counter()
            try:
                workers = engine.collective_rpc("posttrain_swap", args=(location, self._base))
            except FileNotFoundError as error:  # nothing was changed yet
                raise self._gone(version, location) from error
            except Exception as error:  # half-swapped: nothing may be generated from here on
                self._thread.fail(self._broken(error))
                raise
            self._finish(engine, workers, location, version, fills)
            return 1000 * (time.perf_counter() - begin)

        try:
            stall_ms = await self._thread.call(swap)
        except PosttrainError:
            raise
        except Exception as error:  # vLLM's own, of any class
            raise self._broken(error) from error
        finally:
            if self._thread.engine is not None:
                await self._in_workers("posttrain_forget")
        return stall_ms

    def _finish(
        self, engine: Any, workers: list[Any], location: str, version: int, filled: bool
    ) -> None:
        """Empty the caches and say which weights these are; called between two steps."""
        try:
            self._require_fresh(workers, location)
        except WeightsDiffer as error:
            if not filled:  # they were loaded in place: the old ones are gone
                self._thread.fail(self._broken(error))
            raise
        try:
            # Cached keys and values belong to the old weights: running answers start over.
            engine.reset_prefix_cache(reset_running_requests=True)
        except Exception as error:
            self._thread.fail(self._broken(error))
            raise
        engine.set_weight_version(str(version))
        self.version = version

    # -- errors -----------------------------------------------------------------------------------

    def _require_tensors(self, shapes: Mapping[str, tuple[int, ...]], place: str) -> None:
        require_fitting(self._shapes, shapes, self._tied, place)

    def _require_fresh(self, workers: list[list[str]], location: str) -> None:
        stale = {layer for layers in workers for layer in layers}
        if stale:
            raise WeightsDiffer(
                f"engine {self._name} took the weights, but {len(stale)} of its layers compute "
                f"with others, first {min(stale)}",
                place=location,
                help="they are not used; publish the version again, or start another engine",
            )

    def _gone(self, version: int, location: str) -> WeightsGone:
        return WeightsGone(
            f"version {version} is not there any more for engine {self._name}",
            place=location,
            help="weights travel through shared memory: engine and trainer share one host",
        )

    def _broken(self, error: BaseException) -> EngineFailed:
        return EngineFailed(
            f"engine {self._name} died in a weight update: {first_line(error)}",
            help="its unfinished rollouts are generated again elsewhere",
        )
