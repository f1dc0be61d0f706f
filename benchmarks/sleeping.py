"""Engines and trainers that only take time, behind the real worker and the real coordinator.

How long they take is what `posttrain.loop.latency` states: an engine's decode step takes
base_s + per_sequence_s * running and gives every running sample one token; a batch takes a trainer
group seconds_per_token * tokens / trainers. Everything else (processes, messages, journals, the
ledger, who may start and what is trained when) is the product's.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.workload import Workload, prompt_text
from posttrain.loop.latency import EngineSpeed
from posttrain.rollout.samples import Answer, Growth, Partial, SampleKey, SampleTask
from posttrain.types import Prompt, Rollout, RolloutRef, Score, Scoring, SyncReport, WeightVersion

FILLER_TOKEN, FILLER_LOGPROB = 2, -0.5


class SleepingEngine:
    """A SampleEngine. Samples advance together; `progress` counts the tokens that each would have,
    had it been there from the start.

    With `finishes_before_swap` it takes new weights only when nothing runs, as engines do whose
    running answers cannot go on under new weights.
    """

    def __init__(self, speed: EngineSpeed, workload: Workload, finishes_before_swap: bool) -> None:
        self._speed, self._workload = speed, workload
        self._finishes_before_swap = finishes_before_swap
        self._version = 0
        self._running: list[tuple[float, int, SampleTask, int]] = []  # heap: ends at, ...
        self._order = itertools.count()
        self._ended: list[tuple[SampleTask, int]] = []
        self._progress = 0.0
        self._right_at = 0.0  # loop time of `_progress`; in the future while standing still
        self._news = asyncio.Event()
        self._busy_s, self._tokens = 0.0, 0

    def submit(self, tasks: Sequence[SampleTask]) -> None:
        """All of them start at once."""
        self._advance()
        for task in tasks:
            ends_at = self._progress + self._workload.length(task.key[1], task.key[2])
            heapq.heappush(self._running, (ends_at, next(self._order), task, self._version))
        self._news.set()

    async def finished(self) -> list[Answer]:
        """Waits for the next sample to end."""
        while True:
            self._advance()
            if self._ended:
                ended, self._ended = self._ended, []
                return [Answer(task, version, self._rollout(task)) for task, version in ended]
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), self._until_next_s())
            except TimeoutError:
                continue

    async def growth(self, known: Mapping[SampleKey, int], at_least: int) -> list[Growth]:
        """What running samples have that nobody knows of yet."""
        self._advance()
        found = []
        for ends_at, _, task, version in self._running:
            length = self._workload.length(task.key[1], task.key[2])
            have, there = known.get(task.key, 0), int(length - (ends_at - self._progress))
            if there - have >= at_least:
                found.append(Growth(task, have, _filler(there - have, version)))
        return found

    async def abort(self, keys: Collection[SampleKey]) -> None:
        self._advance()
        self._running = [entry for entry in self._running if entry[2].key not in keys]
        heapq.heapify(self._running)

    async def update_weights(self, version: WeightVersion) -> SyncReport:
        """Stands still for `sync_s`; what runs goes on afterwards, if it has not to end before."""
        while self._finishes_before_swap and self._running:
            await asyncio.sleep(max(0.001, self._until_next_s() or 0.0))
            self._advance()
        self._advance()
        self._right_at += self._speed.sync_s
        await asyncio.sleep(self._speed.sync_s)
        self._version = version.version
        return SyncReport(version.version, True, *[1000 * self._speed.sync_s] * 2)

    async def stats(self) -> Mapping[str, float]:
        self._advance()
        numbers = {"busy_s": self._busy_s, "tokens": float(self._tokens), "cache_hit_share": 0.0}
        self._busy_s, self._tokens = 0.0, 0
        return numbers | {"running": float(len(self._running)), "waiting": 0.0}

    def _advance(self) -> None:
        """Bring everything up to now, sample end by sample end: each end makes the rest faster."""
        now = asyncio.get_running_loop().time()
        while self._running and self._right_at < now:
            step_s = self._speed.step_s(len(self._running))
            ends_at = self._running[0][0]
            passed_s = min(now - self._right_at, (ends_at - self._progress) * step_s)
            self._busy_s += passed_s
            self._right_at += passed_s
            self._progress += passed_s / step_s
            if self._right_at < now or self._progress >= ends_at:
                self._progress = ends_at
                _, _, task, version = heapq.heappop(self._running)
                self._ended.append((task, version))
                self._news.set()
        self._right_at = max(self._right_at, now)

    def _until_next_s(self) -> float | None:
        if not self._running:
            return None
        left = self._running[0][0] - self._progress
        step_s = self._speed.step_s(len(self._running))
        standing_s = self._right_at - asyncio.get_running_loop().time()
        return max(0.0, left * step_s + standing_s)

    def _rollout(self, task: SampleTask) -> Rollout:
        _, draw, sample = task.key
        length = self._workload.length(draw, sample)
        self._tokens += length
        tokens = _filler(length, self._version)
        return Rollout(
            str(draw),
            sample,
            task.prompt.token_ids,
            tokens.token_ids,
            (1,) * length,
            tokens.logprobs,
            tokens.versions,
            "",
            "length",
        )


def _filler(count: int, version: int) -> Partial:
    return Partial((FILLER_TOKEN,) * count, (FILLER_LOGPROB,) * count, (version,) * count, version)


class EngineActor:
    """A device that generates."""

    async def serve(
        self,
        coordinator: Any,
        journals: str,
        name: str,
        speed: EngineSpeed,
        workload: Workload,
        finishes_before_swap: bool,
    ) -> None:
        """Work for one coordinator until it says that the stage is over."""
        from posttrain.cluster.handles import CoordinatorLink
        from posttrain.rollout.journal import JournalWriter
        from posttrain.rollout.worker import RolloutWorker

        process = uuid.uuid4().hex[:8]
        worker = RolloutWorker(
            SleepingEngine(speed, workload, finishes_before_swap),
            CoordinatorLink(coordinator),
            JournalWriter(Path(journals), name, process),
            name=name,
            process=process,
            capacity=speed.max_running,
        )
        await worker.serve()


class TrainerActor:
    """A device that trains."""

    def train(self, seconds: float) -> None:
        time.sleep(seconds)


class CoordinatorActor:
    """The real coordinator over a workload; rewards cost nothing."""

    async def begin(self, settings: Any, directory: str) -> None:
        from posttrain.loop.coordinator import Coordinator
        from posttrain.loop.ledger import Ledger

        folder = Path(directory)
        self._coordinator = Coordinator(
            settings, _Prompts(), _FreeRewards(), _Silent(), Ledger(folder / "ledger.jsonl"), folder
        )

    async def exchange(self, report: Any) -> Any:
        return await self._coordinator.exchange(report)

    async def publish(self, version: WeightVersion) -> None:
        await self._coordinator.publish(version)

    async def next_batch(self, step: int) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """(draws, start versions) of the step's batch."""
        batch = await self._coordinator.next_batch(step)
        if batch is None:
            return None
        return (
            tuple(group.draw for group in batch.groups),
            tuple(group.start_version for group in batch.groups),
        )

    async def committed(self, step: int) -> None:
        await self._coordinator.committed(step)

    async def close(self) -> None:
        await self._coordinator.close()


class _Prompts:
    def at(self, draw: int) -> Prompt:
        return Prompt(str(draw), "", tuple(range(12)), prompt_text(draw), {})


class _FreeRewards:
    async def score(self, prompt: Prompt, refs: Sequence[RolloutRef]) -> Scoring:
        return Scoring(tuple(Score(float(number % 2)) for number in range(len(refs))))


class _Silent:
    """A tracker that keeps nothing."""

    def log(self, metrics: Mapping[str, float], **axes: float) -> None: ...

    def event(self, name: str, **details: Any) -> None: ...

    def samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None: ...

    def span(self, track: str, name: str, start_s: float, end_s: float, **details: Any) -> None: ...
