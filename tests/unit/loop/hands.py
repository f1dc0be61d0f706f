"""Engines in small for tests of the coordinator: they speak `exchange`, and generate nothing."""

from __future__ import annotations

import asyncio
import random

from posttrain.types import (
    EngineReport,
    EngineStats,
    FailedSample,
    FinishedSample,
    Prompt,
    RolloutRef,
    Score,
    Scoring,
    SyncReport,
    WeightVersion,
)


def version(number, attempt=0):
    return WeightVersion(attempt, number, f"c{number}", f"/nowhere/{number}")


class Prompts:
    def at(self, draw):
        return Prompt(f"p/{draw}", "p", (1, 2, 3), "1+2=", {"draw": draw})


class Rewards:
    """Scores a group's samples 0 and 1 in turn. Draws in `broken` break, those in `hang` never
    return, those in `flat` score all the same.
    """

    def __init__(self, broken=(), hang=(), flat=()):
        self.broken, self.hang, self.flat = set(broken), set(hang), set(flat)
        self.calls = []

    async def score(self, prompt, refs):
        draw = prompt.row["draw"]
        self.calls.append(draw)
        if draw in self.hang:
            await asyncio.sleep(3600)
        if draw in self.broken:
            return Scoring((None, *[Score(1.0)] * (len(refs) - 1)), ("raised ZeroDivisionError",))
        values = [1.0 if draw in self.flat else float(i % 2) for i in range(len(refs))]
        return Scoring(tuple(Score(value, passed=value == 1.0) for value in values))


class Events:
    def __init__(self):
        self.events, self.metrics, self.spans = [], [], []

    def log(self, metrics, **axes):
        self.metrics.append((axes, dict(metrics)))

    def event(self, name, **details):
        self.events.append((name, details))

    def samples(self, step, rows):
        pass

    def span(self, track, name, start_s, end_s, **details):
        self.spans.append((track, name))

    def named(self, name):
        return [details for event, details in self.events if event == name]


class Hand:
    """One engine: takes work, finishes each sample after a while, acknowledges weights.

    `latency(work, sample)` gives seconds; `lag_s` passes before new weights are acknowledged;
    `refuse` names draws it gives back; `mute` engines run and never report again.
    """

    def __init__(self, name, latency=None, lag_s=0.0, capacity=64, refuse=(), process="a"):
        self.name, self.process, self.capacity = name, process, capacity
        self.latency = latency or (lambda work, sample: 0.001)
        self.lag_s, self.refuse = lag_s, set(refuse)
        self.acknowledged = None
        self.sync = None
        self.held, self.finished, self.failed = {}, [], []
        self.received = 0
        self.num_generated = 0
        self.works = []
        self.ended = False
        self.mute = False
        self.answers_with = lambda weights: weights
        self._tasks = set()
        self._changed = asyncio.Event()
        self._served = None

    def start(self, coordinator):
        self._served = asyncio.create_task(self._serve(coordinator))
        return self

    async def die(self):
        for task in (self._served, *self._tasks):
            task.cancel()
        await asyncio.gather(self._served, *self._tasks, return_exceptions=True)

    async def _serve(self, coordinator):
        while not self.ended:
            self._changed.clear()
            report = EngineReport(
                self.name, self.process, self.capacity, self.acknowledged, self.sync,
                tuple(self.finished), tuple(self.failed), tuple(self.held), self.received,
                EngineStats(0.0, 8 * len(self.finished), len(self.held), 0),
            )  # fmt: skip
            self.finished, self.failed, self.sync = [], [], None
            while self.mute:
                await asyncio.sleep(0.01)
            call = asyncio.create_task(coordinator.exchange(report))
            news = asyncio.create_task(self._changed.wait())
            await asyncio.wait({call, news}, return_when=asyncio.FIRST_COMPLETED)
            news.cancel()
            if call.done():
                self._carry_out(call.result())
            else:  # something to tell: the older call gives way, its answer comes all the same
                self._spawn(self._late_answer(call))
                await asyncio.sleep(0)

    async def _late_answer(self, call):
        self._carry_out(await call)

    def _carry_out(self, directive):
        self.received = max(self.received, directive.number)
        self.ended = self.ended or directive.end
        if directive.weights is not None:
            self._spawn(self._take(directive.weights))
        for work in directive.work:
            self.works.append(work)
            for sample in work.samples:
                self.held[work.lane, work.draw, sample] = True
                self._spawn(self._generate(work, sample))

    async def _take(self, weights):
        await asyncio.sleep(self.lag_s)
        self.acknowledged = self.answers_with(weights)
        self.sync = SyncReport(weights.version, True, 1000 * self.lag_s, 1.0)
        self._changed.set()

    async def _generate(self, work, sample):
        start = self.acknowledged.version if self.acknowledged else 0
        await asyncio.sleep(self.latency(work, sample))
        self.num_generated += 1
        del self.held[work.lane, work.draw, sample]
        if work.draw in self.refuse:
            self.failed.append(FailedSample(work.lane, work.draw, sample, "too long"))
        else:
            ref = RolloutRef(f"/nowhere/{self.name}", 100 * work.draw + sample)
            self.finished.append(FinishedSample(work.lane, work.draw, sample, ref, start, 8))
        self._changed.set()

    def _spawn(self, work):
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def uneven(seed, longest_s=0.02):
    """A latency that differs from sample to sample, the same for the same seed."""
    return lambda work, sample: (
        random.Random(f"{seed}/{work.draw}/{sample}").random() ** 3 * longest_s
    )
