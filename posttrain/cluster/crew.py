"""The engines of one online stage at work: served by a coordinator, replaced when they die.

    serve() of each engine --returns or raises--> watch thread --engine_died--> coordinator
    coordinator.lost_engines() -----------------> watch thread --replace--> fresh engine, serve()

The watch thread is the only one that touches an engine's process while the stage runs. It ends
with the stage.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any

import ray

from posttrain.cluster import calls
from posttrain.cluster.engines import Lease
from posttrain.cluster.handles import CoordinatorLink, EngineHandle
from posttrain.errors import EngineFailed, Interrupted, PosttrainError, ProcessDied
from posttrain.ports import Tracker

LOOK_EVERY_S = 1.0
LOST_DEADLINE_S = 30.0  # for the coordinator to say which engines it gave up
REPLACE_TRIES = 3  # to start another engine in place of a dead one
END_DEADLINE_S = 15.0  # for engines to come back from a stage that is over


class EngineCrew:
    """Context manager around the engines of a lease while they serve one coordinator."""

    def __init__(self, lease: Lease, coordinator: Any, journals: str, tracker: Tracker) -> None:
        self._lease = lease
        self._coordinator = coordinator
        self._journals = journals
        self._tracker = tracker
        self._serving: dict[str, Any] = {}  # engine: the answer of its serve()
        self._replacing: dict[str, threading.Thread] = {}
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="engine crew", daemon=True)

    def __enter__(self) -> EngineCrew:
        for handle in self._lease.handles:
            self._put_to_work(handle)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        for thread in self._replacing.values():
            thread.join()

    @property
    def names(self) -> list[str]:
        return [handle.name for handle in self._lease.handles]

    def wait_until_free(self) -> None:
        """The coordinator was closed: every engine has come back. Raises where one has not."""
        self._over.set()
        self._thread.join()
        for name, answer in self._serving.items():
            calls.get(answer, END_DEADLINE_S, f"engine {name} to end its work for the stage")

    def _put_to_work(self, handle: EngineHandle) -> None:
        link = CoordinatorLink(self._coordinator)
        with self._lock:
            self._serving[handle.name] = handle.actor.serve.remote(
                link, self._journals, self._tracker
            )

    def _watch(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            for name, error in self._ended().items():
                self._tell(name, error)
                self._replace(name)
            for name in self._given_up():
                self._replace(name)

    def _ended(self) -> dict[str, PosttrainError]:
        """Engines whose work ended by itself, and how."""
        ended: dict[str, PosttrainError] = {}
        with self._lock:
            serving = dict(self._serving)
        if not serving:
            return ended
        done, _ = ray.wait(list(serving.values()), num_returns=len(serving), timeout=0)
        for name, answer in serving.items():
            if answer not in done or self._over.is_set():
                continue
            try:
                calls.get(answer, LOOK_EVERY_S, f"engine {name}")
                ended[name] = EngineFailed(f"engine {name} left while the stage goes on")
            except PosttrainError as error:
                ended[name] = error
        return ended

    def _given_up(self) -> list[str]:
        try:
            lost = calls.get(
                self._coordinator.lost_engines.remote(), LOST_DEADLINE_S, "the coordinator"
            )
        except PosttrainError:
            return []  # Ray restarts it; its trainer tells where it stays away
        return [name for name in lost if name in self._serving]

    def _tell(self, name: str, error: PosttrainError) -> None:
        if isinstance(error, ProcessDied):
            error = EngineFailed("its process died", place=f"engine {name}")
        self._coordinator.engine_died.remote(name, error)

    def _replace(self, name: str) -> None:
        """In a thread of its own: a start takes seconds, and others may die meanwhile."""
        with self._lock:
            if self._serving.pop(name, None) is None:
                return

        def replace() -> None:
            for _ in range(REPLACE_TRIES):
                if self._over.is_set():
                    return
                try:
                    fresh = self._lease.replace(name, self._over.is_set)
                except Interrupted:
                    return
                except PosttrainError as error:  # it may die in its turn while it starts
                    self._tracker.event("engine-not-replaced", engine=name, message=error.message)
                    continue
                self._tracker.event("engine-replaced", engine=name, by=fresh.name)
                if not self._over.is_set():
                    self._put_to_work(fresh)
                return

        thread = threading.Thread(target=replace, name=f"replace engine {name}", daemon=True)
        self._replacing[name] = thread
        thread.start()
