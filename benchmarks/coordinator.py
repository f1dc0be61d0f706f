"""Rollouts a second through the coordinator's state machine, on one core, by number of engines.

A virtual clock first lets engines, a reward and a trainer play a stretch of a run and writes down
every call that the machine was asked: after each finished sample `assign`, after each accepted
group `take_batch`, as often as a coordinator can ask. The calls are then repeated on a fresh
machine, which answers the same, and only that is timed.
"""

from __future__ import annotations

import gc
import heapq
import itertools
import json
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.figures import Figure, at_least, worst_at_least
from posttrain.loop.admission import AdmissionRule
from posttrain.loop.machine import Machine

ENGINES = (10, 100, 1000)
GROUP_SIZES = (1, 8)
CAPACITY = 32  # sequences of one engine
STEPS_AHEAD, MAX_STALENESS = 2, 4
ROLLOUTS = 120_000  # each measurement, at least
TURNOVERS = 4  # and every place of every engine is taken anew this often; not timed: the first
REPEATS = 5
LENGTH_SIGMA = 0.91  # of the log-normal lengths
SYNC_S, TRAIN_S = 0.1, 0.5  # in mean lengths of a sample

Call = tuple[str, tuple[Any, ...]]


def run() -> tuple[list[Figure], dict[str, Any]]:
    rates: dict[tuple[int, int], list[float]] = {}
    for samples in GROUP_SIZES:
        recordings = {engines: Recording(engines, samples) for engines in ENGINES}
        for _ in range(REPEATS):  # in turns, so that a busy machine slows all of them
            for engines, recording in recordings.items():
                rates.setdefault((samples, engines), []).append(recording.rate())
    return rate_figures(rates), {
        "repeats": REPEATS,
        "capacity": CAPACITY,
        "steps_ahead": STEPS_AHEAD,
        "max_staleness": MAX_STALENESS,
        "rollouts_at_least": ROLLOUTS,
        "length_sigma": LENGTH_SIGMA,
        "calls_per_rollout": "sample_finished and assign; per group group_scored and take_batch",
    }


def rate_figures(rates: Mapping[tuple[int, int], Sequence[float]]) -> list[Figure]:
    """`rates`: (samples of a group, engines) -> rollouts/s of each repeat. Fast enough, and flat
    over the number of engines: the slowest over the fastest of each repeat.
    """
    figures = [
        worst_at_least(f"groups of {samples}, {engines} engines", values, 10_000, "rollouts/s")
        for (samples, engines), values in rates.items()
    ]
    for samples in GROUP_SIZES:
        rounds = zip(*(rates[samples, engines] for engines in ENGINES), strict=True)
        ratios = [min(values) / max(values) for values in rounds]
        figures.append(at_least(f"groups of {samples}, slowest / fastest", ratios, 0.7, ""))
    return figures


class Recording:
    """A stretch of a run as the list of calls that the machine was asked."""

    def __init__(self, num_engines: int, samples: int) -> None:
        self.calls: list[Call] = []
        self.num_rollouts = 0
        self._warm_up = 0  # calls
        self._samples = samples
        # A quarter more work than places, so that engines stay full and groups have to wait.
        groups = 1.25 * num_engines * CAPACITY / samples / (STEPS_AHEAD + 1)
        self._rule = AdmissionRule(max(1, round(groups)), STEPS_AHEAD, MAX_STALENESS)
        self._machine = self._new_machine()
        self._clock = Clock(seed=num_engines)
        self._versions: dict[str, int] = {}
        self._step = 0
        self._is_training = False
        for number in range(num_engines):
            self._ask("join", f"engine-{number}", CAPACITY)
            self._acknowledged(f"engine-{number}", 0)
        self._assign()
        places = num_engines * CAPACITY
        self._go_on_until(places)
        self._warm_up = len(self.calls)
        self._go_on_until(places + max(ROLLOUTS, (TURNOVERS - 1) * places))
        self.num_rollouts -= places  # those that are timed

    def _go_on_until(self, num_rollouts: int) -> None:
        while self.num_rollouts < num_rollouts:
            event, details = self._clock.next()
            getattr(self, event)(*details)

    def rate(self) -> float:
        """Rollouts per second of processor time, while the calls are asked again."""
        machine = self._new_machine()
        methods = {name: getattr(machine, name) for name in {name for name, _ in self.calls}}
        # Fresh copies, in the order of the calls, as messages that have just come in are.
        fresh = json.loads(json.dumps(self.calls))
        calls = [(methods[name], tuple(details)) for name, details in fresh]
        del fresh
        for call, details in calls[: self._warm_up]:
            call(*details)
        del calls[: self._warm_up]
        gc.collect()
        gc.freeze()  # the list of calls is no part of a coordinator
        began = time.process_time()
        for call, details in calls:
            call(*details)
        seconds = time.process_time() - began
        gc.unfreeze()
        return self.num_rollouts / seconds

    def _new_machine(self) -> Machine:
        return Machine(self._rule, 1_000_000, self._samples)

    def _ask(self, name: str, *details: Any) -> Any:
        self.calls.append((name, details))
        return getattr(self._machine, name)(*details)

    def _assign(self) -> None:
        for piece in self._ask("assign"):
            start = self._versions[piece.engine]
            for sample in piece.samples:
                self._clock.after_length("_finished", piece.draw, sample, start)

    def _finished(self, draw: int, sample: int, start: int) -> None:
        self.num_rollouts += 1
        if self._ask("sample_finished", draw, sample, start) == "complete":
            self._ask("group_scored", draw, True)
            if not self._is_training:
                self._train()
        self._assign()

    def _train(self) -> None:
        if self._ask("take_batch", self._step) is not None:
            self._is_training = True
            self._clock.after(TRAIN_S, "_trained")

    def _trained(self) -> None:
        self._step += 1
        self._is_training = False
        self._ask("committed", self._step)
        for engine in self._versions:
            self._clock.after(SYNC_S, "_acknowledged", engine, self._step)
        self._train()

    def _acknowledged(self, engine: str, version: int) -> None:
        self._versions[engine] = version
        self._ask("acknowledge", engine, version)
        self._assign()


class Clock:
    """Virtual time: what happens next, in mean lengths of a sample."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._now = 0.0
        self._events: list[tuple[float, int, str, tuple[Any, ...]]] = []
        self._count = itertools.count()

    def after(self, mean: float, event: str, *details: Any) -> None:
        """In `mean`, give or take a third."""
        at = self._now + mean * self._random.uniform(2 / 3, 4 / 3)
        heapq.heappush(self._events, (at, next(self._count), event, details))

    def after_length(self, event: str, *details: Any) -> None:
        length = self._random.lognormvariate(-(LENGTH_SIGMA**2) / 2, LENGTH_SIGMA)
        heapq.heappush(self._events, (self._now + length, next(self._count), event, details))

    def next(self) -> tuple[str, tuple[Any, ...]]:
        self._now, _, event, details = heapq.heappop(self._events)
        return event, details
