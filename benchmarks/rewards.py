"""How fast answers are scored: the GSM8K verifier, the processes around it, the code sandbox.

- gsm8k: `score()` on worked answers of about 300 characters, in this process on one core
- pool: the same answers through a RewardPool: pipes, a child, a reply per answer
- sandbox: a program that does nothing, beside the same program run bare
- quickstart: from the last token of a prompt's answers to their scores, beside a training step
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, at_least, at_most, shown

ANSWERS = 20_000
ROUNDS = 7
PROGRAMS = 40


def run() -> tuple[list[Figure], dict[str, Any]]:
    rows, answers = worked_answers(ANSWERS)
    direct, through_pool = gsm8k_speeds(rows, answers)
    boxed, bare = sandbox_seconds()
    extra_ms = [1000 * (one - other) for one, other in zip(boxed, bare, strict=True)]
    latencies, steps = quickstart_latencies()
    return [
        at_least("gsm8k, one core", direct, 20_000, "scores/s"),
        shown("gsm8k, through a pool", through_pool, "scores/s"),
        at_most("sandbox, start-up beyond bare Python", extra_ms, 50, "ms"),
        shown("sandbox, a program that does nothing", [1000 * each for each in boxed], "ms"),
        shown("bare Python, the same", [1000 * each for each in bare], "ms"),
        shown("quickstart, a group's scores", latencies, "ms"),
        shown("quickstart, a training step", steps, "ms"),
    ], {
        "answers": ANSWERS,
        "characters_per_answer": round(statistics.fmean(map(len, answers))),
        "programs": PROGRAMS,
        "launcher": _launcher(),
    }


def worked_answers(count: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Answers with a sum on each line, half of them wrong in the last."""
    rng = random.Random(0)
    rows, answers = [], []
    for number in range(count):
        total, lines = rng.randint(10, 99), []
        for _ in range(5):
            more = rng.randint(10, 999)
            lines.append(f"Then she gets {more} more, which makes {total}+{more} = {total + more}.")
            total += more
        rows.append({"answer": f"#### {total}"})
        answers.append("\n".join([*lines, f"She has ${total + number % 2:,} in the end."]))
    return rows, answers


def gsm8k_speeds(rows: list[dict[str, Any]], answers: list[str]) -> tuple[list[float], list[float]]:
    """Scores per second, round by round: in this process, and through a pool."""
    from posttrain.rewards import gsm8k

    from posttrain.reward.worker import RewardPool

    config = gsm8k.Config()

    def direct() -> list[Any]:
        return [gsm8k.score(row, text, config) for row, text in zip(rows, answers, strict=True)]

    with RewardPool("gsm8k", {}, 10.0) as pool:
        pool.score(rows[:1], answers[:1])
        ways: list[Callable[[], list[Any]]] = [direct, lambda: pool.score(rows, answers)]
        speeds: list[list[float]] = [[], []]
        for _ in range(ROUNDS):
            for way, found in zip(ways, speeds, strict=True):
                began = time.perf_counter()
                right = sum(score.value for score in way())
                found.append(len(answers) / (time.perf_counter() - began))
                if right != len(answers) / 2:
                    raise AssertionError(f"{right:g} of {len(answers)} are right")
    return speeds[0], speeds[1]


def sandbox_seconds() -> tuple[list[float], list[float]]:
    """Seconds of an empty program in the sandbox and bare, in turns."""
    from posttrain.reward.sandbox import Limits, run_python

    boxed, bare = [], []
    limits = Limits(wall_s=10.0)
    run_python("pass", limits=limits)
    for _ in range(PROGRAMS):
        began = time.perf_counter()
        outcome = run_python("pass", limits=limits)
        boxed.append(time.perf_counter() - began)
        if outcome.exit_code != 0:
            raise AssertionError(f"an empty program ended with {outcome}")
        began = time.perf_counter()
        subprocess.run([sys.executable, "-I", "-S", "-c", "pass"], check=True)
        bare.append(time.perf_counter() - began)
    return boxed, bare


def quickstart_latencies() -> tuple[list[float], list[float]]:
    """Of the quickstart's rlvr stage: ms from answers to scores, and ms of a training step."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        subprocess.run(
            [sys.executable, "-m", "posttrain.cli", "run", "quickstart"],
            cwd=folder,
            check=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
            stderr=subprocess.DEVNULL,
        )
        metrics = next(Path(folder).glob("runs/quickstart/rlvr/*/metrics.jsonl"))
        rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    latencies = [row["verifier/latency_ms"] for row in rows if row.get("verifier/latency_ms")]
    return latencies, [
        1000 * row["train/step_time_s"] for row in rows if "train/step_time_s" in row
    ]


def _launcher() -> str:
    from posttrain.reward.sandbox import available

    return str(available())
