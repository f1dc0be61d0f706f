"""One thread that owns one generation engine.

Who produces: coroutines of any event loop hand in requests (`complete`) and functions (`call`).
Who consumes: the thread takes everything handed in, then makes one engine step, and so on; without
unfinished requests it sleeps until something is handed in. Requests are answered when all of one
`complete` are finished. A function runs between two steps, so it sees the engine at rest: what it
changes is atomic for every request. When a step raises, the engine is dead: every waiting call and
every later one gets the error.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from posttrain.errors import EngineFailed, PosttrainError

T = TypeVar("T")


class StepEngine(Protocol):
    """What the thread needs of an engine (vLLM's LLMEngine has it)."""

    def add_request(self, request_id: str, prompt: Any, params: Any) -> Any: ...

    def abort_request(self, request_ids: list[str]) -> None: ...

    def step(self) -> Sequence[Any]:
        """Finished requests, each with `request_id` and `finished`."""
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """One sequence to be generated; `id` is unique among all requests of the engine."""

    id: str
    prompt: Any
    params: Any


@dataclass(slots=True)
class _Batch:
    """The requests of one `complete` call and where their answer goes."""

    requests: Sequence[Request]
    answer: _Answer
    finished: dict[str, Any] = field(default_factory=dict)
    at_start: Any = None


class _Answer:
    """A future of one event loop that another thread may resolve."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self._loop.create_future()

    def give(self, value: Any) -> None:
        self._resolve(self.future.set_result, value)

    def fail(self, error: BaseException) -> None:
        self._resolve(self.future.set_exception, error)

    def _resolve(self, setter: Callable[[Any], None], value: Any) -> None:
        def resolve() -> None:
            if not self.future.done():
                setter(value)

        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(resolve)


class EngineThread:
    """Runs `build()` and then the engine it returns, all in one thread."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.busy_s = 0.0  # spent in steps
        self.engine: Any = None
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._batches: dict[str, _Batch] = {}
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
        answer = _Answer()

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
        batch = _Batch(requests, _Answer())
        self._hand_in(lambda: self._add(batch, at_start), batch.answer)
        try:
            return await batch.answer.future
        except asyncio.CancelledError:
            self._inbox.put(lambda: self._abort(batch))
            raise

    def fail(self, error: EngineFailed) -> None:
        """Call the engine dead (from its own thread): everything that waits gets `error`."""
        self._dead = error
        batches = {id(batch): batch for batch in self._batches.values()}
        self._batches.clear()
        for batch in batches.values():
            batch.answer.fail(error)

    async def stop(self, last: Callable[[Any], None]) -> None:
        """End the thread after `last(engine)`; what still waits gets EngineFailed."""
        if not self._thread.is_alive():
            return
        answer = _Answer()

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

    def _hand_in(self, work: Callable[[], None], answer: _Answer) -> None:
        def unless_dead() -> None:
            if self._dead is not None:
                answer.fail(self._dead)
            else:
                work()

        if self._dead is not None:
            raise self._dead
        self._inbox.put(unless_dead)

    def _run(self) -> None:
        while self._running:
            self._take_in()
            if self._batches:
                self._step()

    def _take_in(self) -> None:
        """Do all that was handed in; wait for something where no request is under way."""
        if not self._batches:
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
        for output in outputs:
            if output.finished:
                self._finish(output)

    def _finish(self, output: Any) -> None:
        batch = self._batches.pop(output.request_id, None)
        if batch is None:
            return
        batch.finished[output.request_id] = output
        if len(batch.finished) == len(batch.requests):
            outputs = [batch.finished[request.id] for request in batch.requests]
            batch.answer.give((batch.at_start, outputs))

    def _add(self, batch: _Batch, at_start: Callable[[], Any]) -> None:
        batch.at_start = at_start()
        if not batch.requests:
            batch.answer.give((batch.at_start, []))
        try:
            for request in batch.requests:
                self.engine.add_request(request.id, request.prompt, request.params)
                self._batches[request.id] = batch
        except Exception as error:  # a request that the engine refuses must not end the others
            self._abort(batch)
            batch.answer.fail(error)

    def _abort(self, batch: _Batch) -> None:
        present = [request.id for request in batch.requests if request.id in self._batches]
        for request_id in present:
            del self._batches[request_id]
        if present and self.engine is not None:
            self.engine.abort_request(present)


def first_line(error: BaseException) -> str:
    """The first line of the innermost cause (or of our own error), fit for one sentence."""
    while error.__cause__ is not None and not isinstance(error, PosttrainError):
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
