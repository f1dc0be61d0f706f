"""Asynchronous against synchronous on two real cores: real engine, real trainer, heavy tails.

The synchronous mode (staleness 0) may use both cores in each phase: several ways are tried and its
best is compared. The asynchronous mode has staleness 4 and the interpolated proximal policy; its
best is chosen the same way. Runs of the two follow one another, and a ratio is of two neighbours.

How far it can go: with one core of two training, not beyond .5/x, x being training's share of the
synchronous step. That share grows with the batch (training is bound by arithmetic, the tail of a
batch's generation by latency), so a larger batch is shown beside the claim.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, at_least, shown
from benchmarks.product import ProductSettings, mean_of, run_product, step_seconds
from benchmarks.workload import SIGMA, Workload

CLAIM = Workload("micro", 8, 8, num_steps=30, median_tokens=32, sigma=SIGMA)
SENSITIVITY = {
    "128 samples": Workload("micro", 16, 8, num_steps=24, median_tokens=32, sigma=SIGMA),
}
REPEATS = 3
WARM_UP = 8  # steps that are not counted

SYNCHRONOUS = {"max": 0, "ahead": 0}
SYNCHRONOUS_CANDIDATES = (
    # As many threads as the trainer gets are what `cpus` leaves it: two, beside two engines.
    ProductSettings(engines=2, trainers=2, cpus=4, staleness=SYNCHRONOUS, proximal="behaviour"),
    ProductSettings(engines=1, cpus=3, staleness=SYNCHRONOUS, proximal="behaviour"),
)
ASYNCHRONOUS_CANDIDATES = (
    ProductSettings(max_running=128),
    ProductSettings(max_running=128, staleness={"max": 4, "ahead": 3, "sync_every": 2}),
)


def run() -> tuple[list[Figure], dict[str, Any]]:
    figures: list[Figure] = []
    synchronous = _best(SYNCHRONOUS_CANDIDATES, "synchronous", figures)
    asynchronous = _best(ASYNCHRONOUS_CANDIDATES, "asynchronous", figures)
    pairs = [(measure(CLAIM, synchronous), measure(CLAIM, asynchronous)) for _ in range(REPEATS)]
    ratios = [before["step_s"] / after["step_s"] for before, after in pairs]
    figures.append(at_least("asynchronous / synchronous, 64 samples a step", ratios, 1.3, "x"))
    for index, mode in enumerate(("synchronous", "asynchronous")):
        for name, unit in (("step_s", "s"), ("train_share", "share"), ("age", "versions")):
            values = [pair[index][name] for pair in pairs]
            figures.append(shown(f"{mode}, {name.removesuffix('_s')}", values, unit))
    for name, workload in SENSITIVITY.items():
        before, after = measure(workload, synchronous), measure(workload, asynchronous)
        figures.append(shown(f"{name}, ratio", [before["step_s"] / after["step_s"]], "x"))
        figures.append(shown(f"{name}, x", [before["train_share"]], "share"))
    return figures, {
        "workload": asdict(CLAIM),
        "synchronous": asdict(synchronous),
        "asynchronous": asdict(asynchronous),
        "sensitivity": {name: asdict(workload) for name, workload in SENSITIVITY.items()},
    }


def _best(
    candidates: tuple[ProductSettings, ...], name: str, figures: list[Figure]
) -> ProductSettings:
    """The settings with the shortest steps; each trial is shown."""
    steps_s = [measure(CLAIM, settings)["step_s"] for settings in candidates]
    for index, value in enumerate(steps_s):
        figures.append(shown(f"{name}, try {index + 1}", [value], "s/step"))
    return candidates[steps_s.index(min(steps_s))]


def measure(workload: Workload, settings: ProductSettings) -> dict[str, float]:
    """Seconds per step, training's share of them, mean age of tokens."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        rows = run_product(Path(folder) / "own", workload, settings)
    # Not the last steps: nothing is generated beside them any more.
    last = -1 - settings.staleness["max"]
    steps_s = step_seconds(rows)[WARM_UP:last]
    measured = rows[WARM_UP + 1 : last]
    return {
        "step_s": statistics.fmean(steps_s),
        "train_share": mean_of(measured, "train/step_time_s") / statistics.fmean(steps_s),
        "age": mean_of(measured, "age/versions/mean"),
    }
