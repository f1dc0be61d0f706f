"""What all parts of a coordinator share: its tasks, what ends it, and who waits for news.

A part that has changed something says so with `changed.fire()`; whoever waits looks again. Nobody
waits in vain: a failure fires too, a task that dies of a bug is a failure, and every wait across
processes has a deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any

from posttrain.errors import DeadlineExceeded, PosttrainError, StageFailed
from posttrain.loop.pulse import Pulse


class Lifecycle:
    """Of one coordinator, on one event loop."""

    def __init__(self) -> None:
        self.changed = Pulse()
        self.failure: PosttrainError | None = None
        self.is_stopping = False  # begin nothing more
        self.is_closed = False
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def may_begin(self) -> bool:
        """Whether new work may still be handed out."""
        return not (self.is_stopping or self.failure)

    def fail(self, error: BaseException, what: str = "") -> None:
        """End the stage with this error; the first one counts. One that is not ours is a bug, met
        in `what`, which reads like "scoring draw 7".
        """
        if not isinstance(error, PosttrainError):
            error = StageFailed(f"{what} failed: {error!r}")
        self.failure = self.failure or error
        self.changed.fire()

    def spawn(self, work: Coroutine[Any, Any, Any], what: str) -> asyncio.Task[Any]:
        """Run in the background. What it raises ends the stage: it must not leave others waiting
        for it. `what`: see `fail`.
        """

        def ended(task: asyncio.Task[Any]) -> None:
            self._tasks.discard(task)
            error = None if task.cancelled() else task.exception()
            if error is not None:
                self.fail(error, what)

        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(ended)
        return task

    async def news(self) -> None:
        """Wait until something has changed. Raises what ended the stage."""
        if self.failure:
            raise self.failure
        await self.changed.wait()
        if self.failure:
            raise self.failure

    async def deadline(self, work: Awaitable[Any], seconds: float, what: str) -> Any:
        """What `work` returns. Raises DeadlineExceeded, naming who was waited for."""
        try:
            return await asyncio.wait_for(work, seconds)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"the coordinator waited {seconds:.0f} s for {what}",
                help="look at that process' log; `posttrain resume` goes on from the last "
                "checkpoint",
            ) from error

    async def close(self) -> None:
        """End every task."""
        self.is_stopping = self.is_closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
