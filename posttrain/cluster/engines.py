"""The engine pool: vLLM engines outlive the stages that use them.

An engine takes seconds to start and milliseconds to take other weights, so engines are leased by
what makes them interchangeable (architecture, tokenizer, number format, lengths) and given back
afterwards.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray

from posttrain.cluster import calls
from posttrain.cluster.actors import EngineActor
from posttrain.cluster.handles import ENGINE_START_S, EngineHandle
from posttrain.errors import EngineFailed, InputError, PosttrainError
from posttrain.ports import EngineSpec
from posttrain.weight_sync.model_folder import NOT_ARCHITECTURE


def engine_key(spec: EngineSpec) -> str:
    """Two specs with the same key may share an engine: only the weights differ."""
    folder = Path(spec.model_path)
    config = json.loads((folder / "config.json").read_text())
    shape = {key: value for key, value in config.items() if key not in NOT_ARCHITECTURE}
    settings = {key: value for key, value in asdict(spec).items() if key != "model_path"}
    digest = hashlib.sha256(json.dumps([shape, settings], sort_keys=True).encode())
    for name in ("tokenizer.json", "generation_config.json"):  # the second says where answers end
        if (folder / name).exists():
            digest.update((folder / name).read_bytes())
    return digest.hexdigest()


@dataclass(slots=True)
class _Pooled:
    key: str
    handle: EngineHandle
    started: Any  # reference to the answer of start()
    busy: bool = False
    ready: bool = False


class EnginePool:
    """Starts, lends and ends engines. Safe to use from several threads."""

    def __init__(self) -> None:
        self._engines: list[_Pooled] = []
        self._lock = threading.Lock()
        self._num_started = 0

    def prewarm(self, spec: EngineSpec, count: int) -> None:
        """Begin to start engines that will be leased soon; returns at once."""
        with self._lock:
            key = engine_key(spec)
            present = sum(engine.key == key for engine in self._engines)
            for _ in range(count - present):
                self._engines.append(self._launch(key, spec))

    @contextmanager
    def lease(self, spec: EngineSpec, count: int) -> Iterator[list[EngineHandle]]:
        """`count` engines with the weights of `spec.model_path`; they return to the pool at the
        end.

        Engines of another key that nobody uses are ended first, to make room. Raises EngineFailed.
        """
        taken = self._take(spec, count)
        sound = False
        try:
            taken = [self._prepared(engine, spec) for engine in taken]
            yield [engine.handle for engine in taken]
            sound = True
        finally:
            with self._lock:
                for engine in taken:
                    engine.busy = False
                    if not sound:  # whatever went wrong may have left it paused or half-loaded
                        self._end(engine)

    def close(self) -> None:
        with self._lock:
            for engine in list(self._engines):
                self._end(engine)

    def _take(self, spec: EngineSpec, count: int) -> list[_Pooled]:
        key = engine_key(spec)
        with self._lock:
            idle = [engine for engine in self._engines if not engine.busy]
            taken = [engine for engine in idle if engine.key == key][:count]
            for engine in idle:
                if engine.key != key:
                    self._end(engine)
            while len(taken) < count:
                fresh = self._launch(key, spec)
                self._engines.append(fresh)
                taken.append(fresh)
            for engine in taken:
                engine.busy = True
        return taken

    def _launch(self, key: str, spec: EngineSpec) -> _Pooled:
        name = str(self._num_started)
        self._num_started += 1
        actor: Any = (
            ray.remote(EngineActor)
            .options(num_cpus=spec.cpus, num_gpus=spec.gpus, max_concurrency=4096)
            .remote(spec, name)
        )
        return _Pooled(key, EngineHandle(actor, name), actor.start.remote())

    def _prepared(self, engine: _Pooled, spec: EngineSpec) -> _Pooled:
        """The engine with the spec's weights; a fresh one where it died since its last use."""
        was_used = engine.ready
        try:
            self._make_ready(engine)
            engine.handle.load_model_folder(spec.model_path)
            return engine
        except InputError:
            raise
        except PosttrainError:
            if not was_used:
                raise
        with self._lock:
            self._end(engine)
            fresh = self._launch(engine.key, spec)
            fresh.busy = True
            self._engines.append(fresh)
        self._make_ready(fresh)
        fresh.handle.load_model_folder(spec.model_path)
        return fresh

    def _make_ready(self, engine: _Pooled) -> None:
        if engine.ready:
            return
        try:
            calls.get(engine.started, ENGINE_START_S, f"engine {engine.handle.name} to start")
        except EngineFailed:
            raise
        except PosttrainError as error:
            raise EngineFailed(
                f"engine {engine.handle.name} did not start: {error.message}",
                help="its log is in the run folder's logs/",
            ) from error
        engine.ready = True

    def _end(self, engine: _Pooled) -> None:
        ray.kill(engine.handle.actor)
        if engine in self._engines:
            self._engines.remove(engine)
