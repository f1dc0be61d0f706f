"""The process in which a reward runs: `python -m posttrain.reward.child REQUEST_FD RESULT_FD`.

Reads requests from the first pipe, writes replies to the second (`posttrain.reward.wire`), one per
answer, each as soon as it is known. Answers of a reward that computes are scored one after the
other, so that the parent knows which one it hangs on; those of one that waits for something outside
side by side (`posttrain.reward.parts`); a reward with `score_many()` gets the batch.

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

from posttrain.config.document import show_path
from posttrain.config.plugins import line_in, load_plugin, plugin_config
from posttrain.errors import RewardBroken
from posttrain.reward.parts import Stuck, num_parts, side_by_side, waits, warm_up, within_limit
from posttrain.reward.protocol import in_seconds, is_batched
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
        limit, (_, most) = setup.memory_mb * 1_000_000, resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (limit, most))  # a sandbox may set its own above it
        module = load_plugin("reward", setup.name)
        config = plugin_config(module, setup.settings)
        reward = _Reward(module, config, setup.timeout_s * num_parts(module, config))
        if reward.together:
            side_by_side(setup.timeout_s)
        warm_up(module, config)
    except (Exception, SystemExit) as error:  # boundary: whatever its file raises is told
        _send(results, f"{type(error).__name__}: {error}")
        return
    _send(results, Ready(reward.together, num_parts(module, config)))
    with asyncio.Runner() as runner:  # one loop, so that an endpoint's connections are kept
        for batch in incoming:
            runner.run(reward.reply_to(batch, results))


@dataclass(frozen=True, slots=True)
class _Reward:
    """A reward's file with its settings."""

    module: Any
    config: Any
    limit_s: float  # of an answer, over all parts

    @property
    def together(self) -> bool:
        return waits(self.module, self.config)

    async def reply_to(self, batch: Sequence[Task], results: int) -> None:
        self._put_off_alarm()
        async for index, reply in self._replies(batch):
            _send(results, (index, reply))
            self._put_off_alarm()
        signal.setitimer(signal.ITIMER_REAL, 0.0)

    def _put_off_alarm(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, self.limit_s + ALARM_GRACE_S)

    async def _replies(self, batch: Sequence[Task]) -> AsyncIterator[tuple[int, Reply]]:
        if is_batched(self.module):
            for index, reply in enumerate(await self._batch(batch)):
                yield index, reply
        elif self.together:
            places = asyncio.Semaphore(MOST_AT_ONCE)
            tasks = [self._in_its_place(index, each, places) for index, each in enumerate(batch)]
            for task in asyncio.as_completed(tasks):
                index, reply = await task
                yield index, reply
                if isinstance(reply, Broken) and reply.is_last:  # a thread computes for ever
                    os._exit(0)
        else:
            for index, (row, completion) in enumerate(batch):
                yield index, await self._score(row, completion)

    async def _in_its_place(
        self, index: int, task: Task, places: asyncio.Semaphore
    ) -> tuple[int, Reply]:
        async with places:
            return index, await self._score(*task)

    async def _score(self, row: dict[str, Any], completion: str) -> Reply:
        try:
            return _fields(await within_limit(self.module, self.config, row, completion))
        except (Exception, SystemExit) as error:  # boundary: it is broken, no answer is wrong
            return _broken(error, self.module)

    async def _batch(self, batch: Sequence[Task]) -> list[Reply]:
        rows, completions = [row for row, _ in batch], [answer for _, answer in batch]
        began = time.perf_counter()
        try:
            found = self.module.score_many(rows, completions, self.config)
            found = await found if inspect.isawaitable(found) else found
            if len(found) != len(batch):
                raise RewardBroken(f"score_many() gave {len(found)} scores for {len(batch)}")
        except (Exception, SystemExit) as error:  # boundary: as above
            return [_broken(error, self.module)] * len(batch)
        seconds = (time.perf_counter() - began) / len(batch)
        return [_checked(each, seconds) for each in found]


def _checked(result: object, seconds: float) -> Reply:
    try:
        return _fields(in_seconds(result, seconds))
    except RewardBroken as error:
        return _broken(error, None)


def _fields(score: Score) -> tuple[Any, ...]:
    return score.value, score.passed, dict(score.parts), score.reason, score.seconds


def _broken(error: BaseException, module: Any) -> Broken:
    if isinstance(error, RewardBroken):
        return Broken(error.message, error.help, isinstance(error, Stuck))
    file = str(getattr(module, "__file__", ""))
    line = line_in(file, error)
    where = f" ({show_path(file)}:{line})" if line else ""
    return Broken(f"score() raised {type(error).__name__}: {error}"[:500] + where, "")


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
