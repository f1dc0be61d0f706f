"""The engine pool: vLLM engines outlive the stages that use them.

An engine takes seconds to start and milliseconds to take other weights, so engines are leased by
what makes them interchangeable (architecture, tokenizer, number format, lengths) and given back
afterwards. There an engine stays for as long as nobody else wants its room.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from posttrain.cluster import calls
from posttrain.cluster.actors import EngineActor
from posttrain.cluster.engine_place import EnginePlace, require_one_memory
from posttrain.cluster.handles import ENGINE_START_S, EngineHandle
from posttrain.errors import EngineFailed, InputError, Interrupted, PosttrainError, ProcessDied
from posttrain.pipeline.room import Room, together
from posttrain.ports import EngineSpec
from posttrain.weight_sync.model_folder import NOT_ARCHITECTURE

STARTS = 3  # of one engine, before its stage fails
LOOK_EVERY_S = 1.0
LONG_WAIT_S = 30.0  # of an engine that starts; then idle ones may stand in its way


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
    room: Room
    busy: bool = False
    ready: bool = False
    place: EnginePlace = field(default_factory=EnginePlace)


class Lease:
    """Engines in use by one stage."""

    def __init__(self, pool: EnginePool, spec: EngineSpec, taken: list[_Pooled]) -> None:
        self._pool = pool
        self._spec = spec
        self.taken = taken

    @property
    def handles(self) -> list[EngineHandle]:
        return [engine.handle for engine in self.taken]

    @property
    def cores(self) -> dict[str, tuple[int, ...]]:
        """Host -> cores that engines have there for themselves."""
        found: dict[str, tuple[int, ...]] = {}
        for place in self.places:
            found[place.host] = (*found.get(place.host, ()), *place.cores)
        return found

    @property
    def places(self) -> list[EnginePlace]:
        return [engine.place for engine in self.taken]

    def prepare(self) -> None:
        """Every engine started, with the weights of the lease's model."""
        for number, engine in enumerate(self.taken):
            self.taken[number] = self._pool._prepared(engine, self._spec)

    def replace(self, name: str, given_up: Callable[[], bool] = lambda: False) -> EngineHandle:
        """A fresh engine in place of one that is not to be used any more. Raises EngineFailed,
        ShmAcrossHosts where it was placed out of the weights' reach, and Interrupted where nobody
        wants it any more before it is there.
        """
        number = next(i for i, e in enumerate(self.taken) if e.handle.name == name)
        before = self.taken[number]
        fresh = self._pool.replace(before, self._spec, given_up)
        if self._spec.weight_sync == "shm":
            try:
                require_one_memory(before.place, [fresh.place], "the engine before it")
            except PosttrainError:
                self._pool.distrust([fresh.handle.name])
                raise
        self.taken[number] = fresh
        return self.taken[number].handle


class EnginePool:
    """Starts, lends and ends engines. Safe to use from several threads.

    `cluster` says what the cluster has, in use or not; `stop_asked` whether the run is to end.
    """

    def __init__(self, cluster: Callable[[], Room], stop_asked: Callable[[], bool]) -> None:
        self._cluster = cluster
        self._stop_asked = stop_asked
        self._engines: list[_Pooled] = []
        self._claims: list[Room] = []
        self._brief: list[Room] = []  # claims too, of work that can wait for one another's end
        self._lock = threading.Lock()
        self._num_started = 0

    def prewarm(self, spec: EngineSpec, count: int) -> None:
        """Begin to start engines that will be leased soon; returns at once."""
        with self._lock:
            key = engine_key(spec)
            present = sum(engine.key == key for engine in self._engines)
            for _ in range(count - present):
                self._engines.append(self._launch(key, spec))
            self._give_way()

    @contextmanager
    def lease(self, spec: EngineSpec, count: int) -> Iterator[Lease]:
        """`count` engines with the weights of `spec.model_path`; they return to the pool at the
        end.

        Engines of another key that nobody uses are ended first, to make room. Raises EngineFailed.
        """
        lease = Lease(self, spec, self._take(spec, count))
        sound = False
        try:
            lease.prepare()
            yield lease
            sound = True
        finally:
            with self._lock:
                for engine in lease.taken:
                    engine.busy = False
                    if not sound:  # whatever went wrong may have left it paused or half-loaded
                        self._end(engine)
                self._give_way()

    @contextmanager
    def room_for(self, wanted: Room, *, brief: bool = False) -> Iterator[None]:
        """Around other processes' work: no idle engine keeps them waiting, now or later.

        Ray ends nothing to make room: they would wait for an engine that waits for nobody. Of
        `brief` work the largest piece must fit: to wait for another is shorter than to start an
        engine.
        """
        claims = self._brief if brief else self._claims
        try:
            with self._lock:
                claims.append(wanted)
                self._give_way()
            yield
        finally:
            with self._lock:
                claims.remove(wanted)

    def end_idle(self) -> None:
        """Somebody has waited for room: what the cluster has in all is not what there is for us.
        Others use it, a node has died, or what is free lies on several nodes.
        """
        with self._lock:
            for engine in self._idle():
                self._end(engine)

    def _idle(self) -> list[_Pooled]:
        """Those that started last first."""
        return [engine for engine in reversed(self._engines) if not engine.busy]

    def _give_way(self) -> None:
        """End idle engines until all that is claimed fits."""
        if not (self._claims or self._brief):
            return
        try:
            there = self._cluster()
        except RayError:  # its head is out of reach: whoever waits for that will tell
            return
        for engine in self._idle():
            if self._fits(there):
                return
            self._end(engine)

    def _fits(self, there: Room) -> bool:
        brief = max((each.cpus for each in self._brief), default=0)  # calls have no GPUs
        engines = [engine.room for engine in self._engines]
        held = together([*self._claims, *engines, Room(brief, 0)])
        return held.cpus <= there.cpus and held.gpus <= there.gpus

    def distrust(self, names: Sequence[str]) -> None:
        """End engines that did not come back from their work."""
        with self._lock:
            for engine in [each for each in self._engines if each.handle.name in names]:
                self._end(engine)

    def replace(self, engine: _Pooled, spec: EngineSpec, given_up: Callable[[], bool]) -> _Pooled:
        """End an engine and start a fresh one in its place. Blocks until it is ready."""
        fresh = self._launch_in_place_of(engine, spec)
        try:
            self._make_ready(fresh, given_up)
        except PosttrainError:
            with self._lock:
                self._end(fresh)
            raise
        return fresh

    def _launch_in_place_of(self, engine: _Pooled, spec: EngineSpec) -> _Pooled:
        with self._lock:
            self._end(engine)
            fresh = self._launch(engine.key, spec)
            fresh.busy = True
            self._engines.append(fresh)
        return fresh

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
        room = Room(spec.cpus, spec.gpus)
        return _Pooled(key, EngineHandle(actor, name), actor.start.remote(), room)

    def _prepared(self, engine: _Pooled, spec: EngineSpec) -> _Pooled:
        """The engine with the spec's weights; a fresh one where it died, since its last use or
        while it started. What it says itself of why it does not start is not tried again.
        """
        for left in reversed(range(STARTS)):
            was_used = engine.ready
            try:
                self._make_ready(engine)
                engine.handle.load_model_folder(spec.model_path)
                return engine
            except PosttrainError as error:
                is_to_be = isinstance(error, InputError | Interrupted)
                if not left or is_to_be or not (was_used or _is_death(error)):
                    with self._lock:
                        self._end(engine)
                    raise
            engine = self._launch_in_place_of(engine, spec)
        raise AssertionError("the last start returns or raises")

    def _make_ready(self, engine: _Pooled, given_up: Callable[[], bool] = lambda: False) -> None:
        if engine.ready:
            return
        try:
            engine.place = self._started(engine, given_up)
        except (EngineFailed, Interrupted):
            raise
        except PosttrainError as error:
            raise EngineFailed(
                f"engine {engine.handle.name} did not start: {error.message}",
                help="its log is in the run folder's logs/; without one, others had its room",
            ) from error
        engine.ready = True

    def _started(self, engine: _Pooled, given_up: Callable[[], bool]) -> EnginePlace:
        what = f"engine {engine.handle.name} to find room and start"
        begun = time.monotonic()
        while True:
            done, _ = ray.wait([engine.started], timeout=LOOK_EVERY_S)
            waited_s = time.monotonic() - begun
            if done:
                place: EnginePlace = calls.get(engine.started, LOOK_EVERY_S, what)
                return place
            if waited_s > ENGINE_START_S:
                raise calls.waited_too_long(ENGINE_START_S, what)
            if given_up() or self._stop_asked():
                raise Interrupted(f"waiting for {what} was given up")
            if waited_s > LONG_WAIT_S:
                self.end_idle()

    def _end(self, engine: _Pooled) -> None:
        ray.kill(engine.handle.actor)
        if engine in self._engines:
            self._engines.remove(engine)


def _is_death(error: PosttrainError) -> bool:
    return isinstance(error, ProcessDied) or isinstance(error.__cause__, ProcessDied)
