"""The quickstart on this machine, three seeds: time, what is learnt, whether numbers agree."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import (
    Figure,
    mean_at_least,
    shown,
    worst_at_least,
    worst_at_most,
)

SEEDS = (0, 1, 2)
ARITHMETIC = "microworld/arithmetic"
SKILLS = tuple(f"microworld/{name}" for name in ("copy", "reverse", "sort", "count"))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run measured. Accuracies are points (0..100) on 512 held-out prompts per task."""

    wall_s: float
    first_curve_s: float
    accuracy: dict[str, float]  # model stage -> arithmetic
    requests: dict[str, float]  # model stage -> gold reward of answers to requests, in hundredths
    skills: dict[str, float]  # model stage -> mean of the four skills
    taken: str | None  # the model that is recommended
    logprob_gap_nats: float
    checksum_failures: float
    sync_ms: list[float]
    busy_share: list[float]
    leftovers: int


def run() -> tuple[list[Figure], dict[str, Any]]:
    outcomes = [measure(seed) for seed in SEEDS]
    sft = [o.accuracy["sft"] for o in outcomes]
    gains = [o.accuracy["rlvr"] - o.accuracy["sft"] for o in outcomes]
    syncs = [value for o in outcomes for value in o.sync_ms]
    figures = [
        worst_at_most("whole run, slowest", [o.wall_s for o in outcomes], 600, "s"),
        worst_at_most("first curve, slowest", [o.first_curve_s for o in outcomes], 90, "s"),
        worst_at_least("arithmetic after sft, lowest", sft, 30, "%"),
        worst_at_most("arithmetic after sft, highest", sft, 70, "%"),
        mean_at_least("gain of rlvr, mean", gains, 20, "points"),
        worst_at_least("gain of rlvr, smallest", gains, 0, "points"),
        worst_at_most(
            "engine against trainer", [o.logprob_gap_nats for o in outcomes], 1e-3, "nats"
        ),
        worst_at_most("checksum failures", [o.checksum_failures for o in outcomes], 0, ""),
        worst_at_most("left running", [o.leftovers for o in outcomes], 0, "processes"),
        shown("weight sync", syncs, "ms"),
        shown("engine busy", [v for o in outcomes for v in o.busy_share], "share"),
    ]
    for stage in outcomes[0].skills:
        figures.append(shown(f"skills, {stage}", [o.skills[stage] for o in outcomes], "%"))
    for stage in outcomes[0].skills:
        tax = [o.skills["base"] - o.skills[stage] for o in outcomes]
        figures.append(shown(f"tax, {stage}", tax, "points"))
    for stage in outcomes[0].accuracy:
        figures.append(shown(f"arithmetic, {stage}", [o.accuracy[stage] for o in outcomes], "%"))
    for stage in outcomes[0].requests:
        figures.append(shown(f"requests, {stage}", [o.requests[stage] for o in outcomes], "%"))
    payload = {"seeds": list(SEEDS), "pipeline": "quickstart", "prompts_per_task": 512}
    return figures, payload | {"taken": [o.taken for o in outcomes]}


def measure(seed: int) -> Outcome:
    """One whole run in a folder of its own."""
    before = _processes()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        began = time.time()
        subprocess.run(
            [sys.executable, "-m", "posttrain.cli", "run", "quickstart", f"seed={seed}"],
            cwd=folder,
            check=True,
            stderr=subprocess.DEVNULL,
        )
        wall_s = time.time() - began
        return _read(Path(folder) / "runs" / "quickstart", began, wall_s, before)


def _read(run: Path, began: float, wall_s: float, before: set[int]) -> Outcome:
    measured = json.loads(next(run.glob("final/*/measurements.json")).read_text())
    final = measured["models"]
    rl = _rows(next(run.glob("rlvr/*/metrics.jsonl")))
    base = _rows(next(run.glob("base/*/metrics.jsonl")))
    time.sleep(3)  # Ray's processes are given a moment to be reaped
    return Outcome(
        wall_s=wall_s,
        # a curve needs two points
        first_curve_s=[row["time"] for row in base if "train/loss" in row][1] - began,
        accuracy={name: 100 * tasks[ARITHMETIC]["value"] for name, tasks in final.items()},
        requests={name: 100 * tasks["requests"]["value"] for name, tasks in final.items()},
        skills={
            name: 100 * sum(tasks[skill]["value"] for skill in SKILLS) / len(SKILLS)
            for name, tasks in final.items()
        },
        taken=measured["recommended"],
        logprob_gap_nats=max(_values(rl, "weights/logprob_gap_max_nats")),
        checksum_failures=sum(_values(rl, "weights/checksum_failures")),
        sync_ms=_values(rl, "weights/sync_ms"),
        busy_share=_values(rl, "engine/busy_share"),
        leftovers=len(_processes() - before),
    )


def _rows(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _values(rows: list[dict[str, float]], name: str) -> list[float]:
    return [row[name] for row in rows if name in row]


def _processes() -> set[int]:
    """Processes of Ray or ours, zombies aside."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if any(word in words for word in ("ray::", "raylet", "gcs_server", "posttrain.cli run")):
            found.add(int(folder.name))
    return found
