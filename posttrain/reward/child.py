"""The process in which a reward runs: `python -m posttrain.reward.child REQUEST_FD RESULT_FD`.

Reads requests from the first pipe, writes replies to the second (`posttrain.reward.wire`), one per
answer and in order, each as soon as it is known. Answers of a reward with an ordinary `score()` are
scored one after the other, so that the parent knows which one it hangs on; those of an async one
side by side, each with the time limit of its own; a reward with `score_many()` gets the batch.

Nothing here imports torch or ray: a child starts in a fraction of a second. It ends when its
request pipe closes, and an alarm that every reply puts off ends it where a reward hangs and no
parent is left.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import pickle
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.config.plugins import load_plugin, plugin_config
from posttrain.errors import RewardBroken
from posttrain.reward.parts import warm_up
from posttrain.reward.protocol import in_seconds, is_batched, scored_by
from posttrain.reward.wire import HEADER, Broken, Ready, Setup, frame
from posttrain.types import Score

ALARM_GRACE_S = 10.0
MOST_AT_ONCE = 64  # answers of an async reward that wait side by side

Task = tuple[dict[str, Any], str]
Reply = tuple[Any, ...] | Broken


def main() -> None:
    """Serve one parent until it closes the pipe."""
    requests, results = int(sys.argv[1]), int(sys.argv[2])
    # What a reward prints must neither reach the pipe nor fill the run's log.
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    incoming = _frames(requests)
    setup: Setup = next(incoming)
    try:
        limit = setup.memory_mb * 1_000_000
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        module = load_plugin("reward", setup.name)
        reward = _Reward(module, plugin_config(module, setup.settings), setup.timeout_s)
        warm_up(module, reward.config)
    except Exception as error:  # boundary: whatever a reward's file raises is told to the parent
        _send(results, f"{type(error).__name__}: {error}")
        return
    _send(results, Ready(reward.is_async or is_batched(module)))
    with asyncio.Runner() as runner:  # one loop, so that an endpoint's connections are kept
        for batch in incoming:
            runner.run(reward.reply_to(batch, results))


@dataclass(frozen=True, slots=True)
class _Reward:
    """A reward's file with its settings."""

    module: Any
    config: Any
    timeout_s: float

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(getattr(self.module, "score", None))

    async def reply_to(self, batch: Sequence[Task], results: int) -> None:
        self._put_off_alarm()
        async for reply in self._replies(batch):
            _send(results, reply)
            self._put_off_alarm()
        signal.setitimer(signal.ITIMER_REAL, 0.0)

    def _put_off_alarm(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, self.timeout_s + ALARM_GRACE_S)

    async def _replies(self, batch: Sequence[Task]) -> AsyncIterator[Reply]:
        if is_batched(self.module):
            for reply in await self._batch(batch):
                yield reply
        elif self.is_async:
            places = asyncio.Semaphore(MOST_AT_ONCE)
            tasks = [asyncio.create_task(self._within_limit(each, places)) for each in batch]
            for task in tasks:
                yield await task
        else:
            for row, completion in batch:
                yield self._score(row, completion)

    def _score(self, row: dict[str, Any], completion: str) -> Reply:
        began = time.perf_counter()
        try:
            result = self.module.score(row, completion, self.config)
            return _fields(in_seconds(result, time.perf_counter() - began))
        except Exception as error:  # boundary: a reward that raises is broken, no answer wrong
            return _broken(error)

    async def _within_limit(self, task: Task, places: asyncio.Semaphore) -> Reply:
        async with places:
            try:
                async with asyncio.timeout(self.timeout_s):
                    return _fields(await scored_by(self.module, self.config, *task))
            except TimeoutError:
                return Broken(f"no score within {self.timeout_s:g} s", "raise reward.timeout_s")
            except Exception as error:  # boundary: as above
                return _broken(error)

    async def _batch(self, batch: Sequence[Task]) -> list[Reply]:
        rows, completions = [row for row, _ in batch], [answer for _, answer in batch]
        began = time.perf_counter()
        try:
            found = self.module.score_many(rows, completions, self.config)
            found = await found if inspect.isawaitable(found) else found
            if len(found) != len(batch):
                raise RewardBroken(f"score_many() gave {len(found)} scores for {len(batch)}")
        except Exception as error:  # boundary: as above
            return [_broken(error)] * len(batch)
        seconds = (time.perf_counter() - began) / len(batch)
        return [_checked(each, seconds) for each in found]


def _checked(result: object, seconds: float) -> Reply:
    try:
        return _fields(in_seconds(result, seconds))
    except RewardBroken as error:
        return _broken(error)


def _fields(score: Score) -> tuple[Any, ...]:
    return score.value, score.passed, dict(score.parts), score.reason, score.seconds


def _broken(error: Exception) -> Broken:
    if isinstance(error, RewardBroken):
        return Broken(error.message, error.help)
    return Broken(f"score() raised {type(error).__name__}: {error}"[:500], "")


def _send(results: int, content: object) -> None:
    left = memoryview(frame(content))
    while left:
        left = left[os.write(results, left) :]


def _frames(requests: int) -> Iterator[Any]:
    with os.fdopen(requests, "rb") as stream:
        while len(header := stream.read(HEADER.size)) == HEADER.size:
            yield pickle.loads(stream.read(HEADER.unpack(header)[0]))


if __name__ == "__main__":
    main()
