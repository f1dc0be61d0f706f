"""What old answers cost, and what the decoupled loss wins back; and that staleness 0 costs nothing.

One small model that does about half of the arithmetic is trained further, from three seeds, in
three modes that differ in nothing else: staleness 0, staleness 4 with the decoupled loss (proximal
log-probs recomputed, weights capped), and staleness 4 with the naive one, which clips against
whoever sampled. Each batch is trained in several optimiser steps, as in the paper that found the
naive loss to suffer (arXiv 2505.24298): with one step a batch there is nothing to clip but age.
Engines are kept 4 steps ahead, so that data is old all the time and not only allowed to be.

All models are asked the same 1,024 held-out problems. What is compared is the difference to
staleness 0 of the same seed, in points; its noise is the half width of the 95 % t-interval over the
seeds' differences. "Within noise" is a mean difference no lower than minus that noise, or than
minus NOISE_FLOOR points, whichever is wider: three seeds may agree by luck, and one share of 1,024
answers is itself only known to +-3.

Parity: a few steps at staleness 0 against `tests/integration/synchronous.py`, a program without
coordinator, Ray or worker: every tensor has to be the same, bit for bit.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.arithmetic import (
    ARITHMETIC,
    BEFORE,
    PROMPTS_ASKED,
    T95_TWO_DEGREES,
    only,
    pipeline,
    run_pipeline,
    scores,
    trainer_rows,
)
from benchmarks.figures import Figure, mean_at_least, shown, worst_at_least, worst_at_most

SEEDS = (0, 1, 2)
STEPS = 30
MAX_STALENESS = 4
LEARNING_RATE = 1e-4
BATCH = {"prompts": 32, "samples_per_prompt": 8, "optimiser_steps": 8}
NOISE_FLOOR = 2.0  # points
MOST_NOISE = 6.0  # points: with more, "within noise" says nothing
LEAST_GAIN = 10.0  # points: models that learnt nothing end alike whatever the loss
PARITY_STEPS, PARITY_SEED, MAX_NEW_TOKENS = 6, 5, 32
REPOSITORY = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Mode:
    """How old answers may be, and what the loss makes of it."""

    name: str
    max_staleness: int
    proximal: str


SYNCHRONOUS = Mode("synchronous", 0, "behaviour")
DECOUPLED = Mode("decoupled", MAX_STALENESS, "recompute")
NAIVE = Mode("naive", MAX_STALENESS, "behaviour")
MODES = (SYNCHRONOUS, DECOUPLED, NAIVE)


def run() -> tuple[list[Figure], dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        stages = run_pipeline(folder, document())
        solved = scores(stages)
        rows = {stage: trainer_rows(stages, stage) for stage in solved if stage != BEFORE}
        num_different, num_tensors = parity(folder, stages)
    figures = [
        worst_at_most("staleness 0 against sync, tensors that differ", [num_different], 0, ""),
        worst_at_least("tensors compared", [num_tensors], 1, ""),
        *_differences(solved),
    ]
    for mode in MODES:
        stages_of = [_stage(mode, seed) for seed in SEEDS]
        figures.append(shown(f"{mode.name}, arithmetic", [solved[s] for s in stages_of], "%"))
    for mode in MODES[1:]:
        behind = [
            100 * (_reward(rows[_stage(mode, seed)]) - _reward(rows[_stage(SYNCHRONOUS, seed)]))
            for seed in SEEDS
        ]
        figures.append(shown(f"{mode.name} - synchronous, reward on the way", behind, "points"))
        ages = [_mean_age(rows[_stage(mode, seed)]) for seed in SEEDS]
        figures.append(worst_at_least(f"{mode.name}, mean age of tokens", ages, 2, "versions"))
        names = ("policy/clip_low_share", "policy/clip_high_share")
        clipped = [
            100 * sum(_mean(rows[_stage(mode, seed)], name) for name in names) for seed in SEEDS
        ]
        figures.append(shown(f"{mode.name}, tokens clipped", clipped, "%"))
    figures.append(shown("before, arithmetic", [solved[BEFORE]], "%"))
    return figures, settings()


def settings() -> dict[str, Any]:
    return {
        "seeds": list(SEEDS),
        "steps": STEPS,
        "batch": BATCH,
        "lr": LEARNING_RATE,
        "staleness": {"max": MAX_STALENESS, "ahead": MAX_STALENESS},
        "decoupled": _off_policy(DECOUPLED),
        "prompts_asked": PROMPTS_ASKED,
        "noise": "half width of the 95 % t-interval of the paired difference over seeds, at least "
        f"{NOISE_FLOOR:g} points",
    }


# -- what is run --------------------------------------------------------------------------------


def document() -> dict[str, Any]:
    """One file for everything: stages are done one after another, with the same engine."""
    trained = {_stage(mode, seed): _online(mode, seed) for seed in SEEDS for mode in MODES}
    parity_stage = _online(SYNCHRONOUS, PARITY_SEED) | {
        "steps": PARITY_STEPS,
        # The synchronous program knows one optimiser step per batch.
        "batch": {"prompts": BATCH["prompts"], "samples_per_prompt": BATCH["samples_per_prompt"]},
    }
    return pipeline("staleness", {"parity": parity_stage, **trained}, list(trained))


def _stage(mode: Mode, seed: int) -> str:
    return f"{mode.name}_{seed}"


def _online(mode: Mode, seed: int) -> dict[str, Any]:
    return {
        "kind": "online_rl",
        "model": "sft",
        "seed": seed,
        "algorithm": {"name": "grpo", "lr": LEARNING_RATE},
        "reward": "arithmetic",
        "data": ARITHMETIC,
        "batch": BATCH,
        "steps": STEPS,
        "staleness": {"max": mode.max_staleness, "ahead": mode.max_staleness},
        "off_policy": _off_policy(mode),
        "sampling": {"max_new_tokens": MAX_NEW_TOKENS},
    }


def _off_policy(mode: Mode) -> dict[str, Any]:
    """For the naive loss nothing but its name may be set."""
    if mode.proximal == "behaviour":
        return {"proximal": "behaviour"}
    return {"proximal": mode.proximal, "weights": "cap", "high": 5.0, "level": "token"}


def parity(folder: Path, stages: Path) -> tuple[int, int]:
    """(tensors that differ, tensors compared) between a stage and the synchronous program."""
    from safetensors.torch import load_file

    wanted = {
        "seed": PARITY_SEED,
        "model": str(only(stages, "sft") / "model"),
        "data": {"path": ARITHMETIC},
        "reward": {"name": "arithmetic", "settings": {}},
        "algorithm": {"lr": LEARNING_RATE},
        "prompts": BATCH["prompts"],
        "samples_per_prompt": BATCH["samples_per_prompt"],
        "steps": PARITY_STEPS,
        "max_new_tokens": MAX_NEW_TOKENS,
    }
    (folder / "settings.json").write_text(json.dumps(wanted))
    program = REPOSITORY / "tests" / "integration" / "synchronous.py"
    subprocess.run(
        [sys.executable, str(program), "settings.json", "expected.safetensors"],
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    expected = load_file(folder / "expected.safetensors")
    found = load_file(only(stages, "parity") / "model" / "model.safetensors")
    names = sorted(set(expected) & set(found))  # a tied output head may be kept under one name
    return sum(not expected[name].equal(found[name]) for name in names), len(names)


# -- what is made of it -------------------------------------------------------------------------


def _differences(solved: Mapping[str, float]) -> list[Figure]:
    """Decoupled with its goal, naive beside it; what noise is stands in its own row."""
    figures = []
    for mode in (DECOUPLED, NAIVE):
        points = [solved[_stage(mode, seed)] - solved[_stage(SYNCHRONOUS, seed)] for seed in SEEDS]
        noise = T95_TWO_DEGREES * statistics.stdev(points) / len(points) ** 0.5
        name = f"{mode.name} - synchronous, mean"
        if mode is DECOUPLED:
            figures.append(mean_at_least(name, points, -max(noise, NOISE_FLOOR), "points"))
        else:
            mean = statistics.fmean(points)
            figures.append(Figure(name, mean, "points", None, "", tuple(points)))
        what = f"{mode.name} - synchronous, noise"
        if mode is DECOUPLED:
            figures.append(worst_at_most(what, [noise], MOST_NOISE, "points"))
        else:
            figures.append(shown(what, [noise], "points"))
    gains = [solved[_stage(SYNCHRONOUS, seed)] - solved[BEFORE] for seed in SEEDS]
    figures.append(worst_at_least("synchronous - before, smallest", gains, LEAST_GAIN, "points"))
    return figures


def _reward(rows: Sequence[Mapping[str, float]]) -> float:
    """Mean over all steps: who learns later has less. An answer's age alone costs some."""
    return _mean(rows, "reward/mean")


def _mean_age(rows: Sequence[Mapping[str, float]]) -> float:
    """Of the steps after the first few, which cannot be old."""
    return _mean(rows[2 * MAX_STALENESS :], "age/versions/mean")


def _mean(rows: Sequence[Mapping[str, float]], name: str) -> float:
    return statistics.fmean(row[name] for row in rows)
