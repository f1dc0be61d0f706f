"""Rollouts a second through the whole coordinator, on one core, by number of engines.

Everything a run's coordinator does happens: reports come in, scores are asked for, each event is
written into a ledger file, batches and weights are handed out. Engines, reward and trainer are
coroutines of the same process that answer at once, so their cost is counted too; what is left out
is Ray's, which carries the messages of many rollouts at a time.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.coordinator import ENGINES, GROUP_SIZES, rate_figures
from benchmarks.figures import Figure
from posttrain.loop.admission import AdmissionRule
from posttrain.loop.coordinator import Coordinator
from posttrain.loop.ledger import Ledger
from posttrain.loop.settings import LoopSettings
from posttrain.types import (
    EngineReport,
    EngineStats,
    FinishedSample,
    Prompt,
    RolloutRef,
    Sampling,
    Score,
    Scoring,
    WeightVersion,
)

CAPACITY = 64  # sequences of one engine
STEPS_AHEAD, MAX_STALENESS = 2, 4
ROLLOUTS = 100_000  # each measurement, about
REPEATS = 3


def run() -> tuple[list[Figure], dict[str, Any]]:
    rates: dict[tuple[int, int], list[float]] = {}
    for _ in range(REPEATS):
        for samples in GROUP_SIZES:
            for engines in ENGINES:
                rates.setdefault((samples, engines), []).append(measure(engines, samples))
    return rate_figures(rates), {
        "repeats": REPEATS,
        "capacity": CAPACITY,
        "steps_ahead": STEPS_AHEAD,
        "max_staleness": MAX_STALENESS,
        "rollouts": ROLLOUTS,
    }


def measure(num_engines: int, samples: int) -> float:
    """Rollouts per second of processor time."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_stretch(Path(folder), num_engines, samples))


async def _stretch(folder: Path, num_engines: int, samples: int) -> float:
    groups = max(1, num_engines * CAPACITY // samples // (STEPS_AHEAD + 1))
    num_steps = max(3, ROLLOUTS // (groups * samples))
    settings = LoopSettings(
        rule=AdmissionRule(groups, STEPS_AHEAD, MAX_STALENESS),
        num_steps=num_steps,
        samples_per_prompt=samples,
        sampling=Sampling(512),
        seed=0,
    )
    coordinator = Coordinator(
        settings, Prompts(), Rewards(), NoTracker(), Ledger(folder / "ledger.jsonl")
    )
    began = time.process_time()
    engines = [asyncio.create_task(engine(coordinator, str(n))) for n in range(num_engines)]
    await coordinator.publish(version(0))
    for step in range(num_steps):
        assert await coordinator.next_batch(step) is not None
        await coordinator.publish(version(step + 1))
        await coordinator.committed(step + 1)
    seconds = time.process_time() - began
    await coordinator.close()
    await asyncio.gather(*engines)
    return num_steps * groups * samples / seconds


async def engine(coordinator: Coordinator, name: str) -> None:
    """Finishes what it is given at once, and tells of it in its next report."""
    acknowledged: WeightVersion | None = None
    finished: list[FinishedSample] = []
    received = 0
    while True:
        report = EngineReport(
            engine=name,
            process="a",
            capacity=CAPACITY,
            acknowledged=acknowledged,
            finished=tuple(finished),
            received=received,
            stats=EngineStats(0.0, 100 * len(finished), 0, 0),
        )
        directive = await coordinator.exchange(report)
        if directive.end:
            return
        received = directive.number
        acknowledged = directive.weights or acknowledged
        start = acknowledged.version if acknowledged else 0
        finished = [
            FinishedSample(
                work.lane, work.draw, sample, RolloutRef(f"/journal/{name}", work.draw), start, 100
            )
            for work in directive.work
            for sample in work.samples
        ]


def version(number: int) -> WeightVersion:
    return WeightVersion(0, number, f"checksum of {number}", f"/nowhere/{number}")


class Prompts:
    def at(self, draw: int) -> Prompt:
        return PROMPT


PROMPT = Prompt("p/0", "p", tuple(range(64)), "", {})


class Rewards:
    async def score(self, prompt: Prompt, refs: Sequence[RolloutRef]) -> Scoring:
        return Scoring(tuple(Score(float(i % 2), passed=bool(i % 2)) for i in range(len(refs))))


class NoTracker:
    def log(self, metrics: Any, **axes: float) -> None: ...

    def event(self, name: str, **details: Any) -> None: ...

    def samples(self, step: int, rows: Any) -> None: ...

    def span(self, track: str, name: str, start_s: float, end_s: float, **details: Any) -> None: ...
