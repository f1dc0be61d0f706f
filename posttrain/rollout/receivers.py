"""Who waits for the requests of an engine's thread, and how an outcome reaches their event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from posttrain.errors import EngineFailed


@dataclass(frozen=True, slots=True)
class Request:
    """One sequence to be generated; `id` is unique among all requests of the engine."""

    id: str
    prompt: Any
    params: Any


class Answer:
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


@dataclass(slots=True, eq=False)
class Batch:
    """The requests of one `complete` call and where their answer goes."""

    requests: Sequence[Request]
    answer: Answer
    finished: dict[str, Any] = field(default_factory=dict)
    at_start: Any = None

    def take(self, request_id: str, output: Any) -> None:
        self.finished[request_id] = output
        if len(self.finished) == len(self.requests):
            outputs = [self.finished[request.id] for request in self.requests]
            self.answer.give((self.at_start, outputs))

    def fail(self, error: EngineFailed) -> None:
        self.answer.fail(error)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a single request ended: with the engine's output, or refused."""

    request_id: str
    at_start: Any  # what was said when it went in
    output: Any
    refusal: Exception | None = None


class Collector:
    """Single requests' outcomes, for one coroutine of the event loop that makes it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._arrived: deque[Outcome] = deque()
        self._at_start: dict[str, Any] = {}
        self._news = asyncio.Event()
        self._is_woken = False  # spares wakes that change nothing: each one is a system call
        self._error: EngineFailed | None = None

    async def outcomes(self) -> list[Outcome]:
        """What has ended since the last call; waits for the first one. Raises EngineFailed."""
        while not self._arrived:
            if self._error is not None:
                raise self._error
            await self._news.wait()
            self._news.clear()
        return [self._arrived.popleft() for _ in range(len(self._arrived))]

    # -- called by the engine's thread ---------------------------------------------------------

    def begin(self, request_id: str, at_start: Any) -> None:
        self._at_start[request_id] = at_start

    def take(self, request_id: str, output: Any, refusal: Exception | None = None) -> None:
        """Keep an outcome; `wake` tells the coroutine of all that were kept."""
        self._arrived.append(Outcome(request_id, self._at_start.pop(request_id), output, refusal))

    def forget(self, request_id: str) -> None:
        del self._at_start[request_id]

    def fail(self, error: EngineFailed) -> None:
        self._error = error
        self.wake()

    def wake(self) -> None:
        if not self._is_woken and not self._loop.is_closed():
            self._is_woken = True
            self._loop.call_soon_threadsafe(self._open_eyes)

    def _open_eyes(self) -> None:  # in the event loop; what arrives from here on wakes it again
        self._is_woken = False
        self._news.set()
