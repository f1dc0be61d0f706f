"""One thread that owns one generation engine.

Who produces: coroutines of any event loop hand in requests (`complete`) and functions (`call`).
Who consumes: the thread takes everything handed in, then makes one engine step, and so on; without
unfinished requests it sleeps until something is handed in. Requests are answered when all of one
`complete` are finished; those handed in with `submit` one by one. A function runs between two
steps, so it sees the engine at rest: what it changes is atomic for every request. When a step
raises, the engine is dead: every waiting call and every later one gets the error.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol, TypeVar

from posttrain.errors import EngineFailed, PosttrainError
from posttrain.rollout.receivers import Answer, Batch, Collector, Request

T = TypeVar("T")


class StepEngine(Protocol):
    """What the thread needs of an engine (vLLM's LLMEngine has it)."""

    def add_request(self, request_id: str, prompt: Any, params: Any) -> Any: ...

    def abort_request(self, request_ids: list[str]) -> None: ...

    def step(self) -> Sequence[Any]:
        """Finished requests, each with `request_id` and `finished`."""
        ...


class EngineThread:
    """Runs `build()` and then the engine it returns, all in one thread."""

    def __init__(self, name: str, cores: Collection[int] = ()) -> None:
        """`cores` are those that the thread, and what it starts, may run on; all where there are
        none.
        """
        self.name = name
        self._cores = frozenset(cores)
        self.busy_s = 0.0  # spent in steps
        self.engine: Any = None
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._waiting: dict[str, Batch | Collector] = {}  # by request
        self._collectors: set[Collector] = set()
        self._dead: EngineFailed | None = None
        self._running = True
        self._thread = threading.Thread(target=self._run, name=f"engine {name}", daemon=True)

    async def start(self, build: Callable[[], StepEngine]) -> None:
        """Start the thread and build the engine in it. Raises what `build` raises."""

        def keep(_: None) -> None:
            self.engine = build()

        self._thread.start()
        await self.call(keep)

    async def call(self, function: Callable[[Any], T]) -> T:
        """Run `function(engine)` between two steps and return what it returns."""
        answer = Answer()

        def run() -> None:
            try:
                answer.give(function(self.engine))
            except Exception as error:  # handed to the caller, who knows what it means
                answer.fail(error)

        self._hand_in(run, answer)
        return await answer.future

    async def complete(
        self, requests: Sequence[Request], at_start: Callable[[], T]
    ) -> tuple[T, list[Any]]:
        """(what `at_start()` said when the requests went in, their outputs in order).

        Cancelling the call aborts the requests.
        """
        batch = Batch(requests, Answer())
        self._hand_in(lambda: self._add(batch, at_start), batch.answer)
        try:
            return await batch.answer.future
        except asyncio.CancelledError:
            self._inbox.put(lambda: self._abort([request.id for request in batch.requests]))
            raise

    def submit(
        self, requests: Sequence[Request], at_start: Callable[[], Any], collector: Collector
    ) -> None:
        """Hand requests in; each outcome goes to the collector as soon as it is there.

        One that the engine refuses is an outcome too. Raises EngineFailed where it is dead.
        """
        if self._dead is not None:
            raise self._dead
        self._inbox.put(lambda: self._add_each(requests, at_start(), collector))

    async def abort(self, request_ids: Collection[str]) -> None:
        """Take back single requests; those that are over are ignored."""
        await self.call(lambda _: self._abort(request_ids))

    def fail(self, error: EngineFailed) -> None:
        """Call the engine dead (from its own thread): everything that waits gets `error`."""
        self._dead = error
        receivers: set[Batch | Collector] = {*self._waiting.values(), *self._collectors}
        self._waiting.clear()
        for receiver in receivers:
            receiver.fail(error)

    async def stop(self, last: Callable[[Any], None]) -> None:
        """End the thread after `last(engine)`; what still waits gets EngineFailed."""
        if not self._thread.is_alive():
            return
        answer = Answer()

        def end() -> None:
            self._running = False
            self.fail(EngineFailed(f"engine {self.name} was shut down"))
            try:
                if self.engine is not None:
                    last(self.engine)
            except Exception as error:  # handed to the caller
                answer.fail(error)
            else:
                answer.give(None)
            self.engine = None

        self._inbox.put(end)
        try:
            await answer.future
        finally:
            await asyncio.to_thread(self._thread.join)

    def _hand_in(self, work: Callable[[], None], answer: Answer) -> None:
        def unless_dead() -> None:
            if self._dead is not None:
                answer.fail(self._dead)
            else:
                work()

        if self._dead is not None:
            raise self._dead
        self._inbox.put(unless_dead)

    def _run(self) -> None:
        if self._cores:
            os.sched_setaffinity(0, self._cores)  # of this thread alone
        while self._running:
            self._take_in()
            if self._waiting:
                self._step()

    def _take_in(self) -> None:
        """Do all that was handed in; wait for something where no request is under way."""
        if not self._waiting:
            self._inbox.get()()
        while self._running:
            try:
                work = self._inbox.get_nowait()
            except queue.Empty:
                return
            work()

    def _step(self) -> None:
        begin = time.perf_counter()
        try:
            outputs = self.engine.step()
        except Exception as error:  # vLLM names no base class for what ends it
            failure = EngineFailed(
                f"engine {self.name} died in a step: {type(error).__name__}: {first_line(error)}",
                help="its unfinished rollouts are generated again elsewhere",
            )
            failure.__cause__ = error
            self.fail(failure)
            return
        self.busy_s += time.perf_counter() - begin
        collectors = set()
        for output in outputs:
            if output.finished:
                receiver = self._waiting.pop(output.request_id, None)
                if receiver is not None:
                    receiver.take(output.request_id, output)
                if isinstance(receiver, Collector):
                    collectors.add(receiver)
        for collector in collectors:  # once for the whole step: each wake interrupts the next one
            collector.wake()

    def _add(self, batch: Batch, at_start: Callable[[], Any]) -> None:
        batch.at_start = at_start()
        if not batch.requests:
            batch.answer.give((batch.at_start, []))
        try:
            for request in batch.requests:
                self.engine.add_request(request.id, request.prompt, request.params)
                self._waiting[request.id] = batch
        except Exception as error:  # a request that the engine refuses must not end the others
            self._abort([request.id for request in batch.requests])
            batch.answer.fail(error)

    def _add_each(self, requests: Sequence[Request], at_start: Any, collector: Collector) -> None:
        self._collectors.add(collector)
        if self._dead is not None:
            collector.fail(self._dead)
            return
        for request in requests:
            collector.begin(request.id, at_start)
            try:
                self.engine.add_request(request.id, request.prompt, request.params)
            except Exception as error:  # only this one
                collector.take(request.id, None, error)
                collector.wake()
            else:
                self._waiting[request.id] = collector

    def _abort(self, request_ids: Collection[str]) -> None:
        present = [request_id for request_id in request_ids if request_id in self._waiting]
        for request_id in present:
            receiver = self._waiting.pop(request_id)
            if isinstance(receiver, Collector):
                receiver.forget(request_id)
        if present and self.engine is not None:
            self.engine.abort_request(present)


def first_line(error: BaseException) -> str:
    """The first line of the innermost cause (or of our own error), fit for one sentence."""
    while error.__cause__ is not None and not isinstance(error, PosttrainError):
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
