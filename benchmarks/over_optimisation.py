"""What ensembles are worth where labels are wrong: gold reward against distance, three seeds.

The pipeline `over_optimisation`: one policy, one pool of 4,096 answers to each of 24 held-out
prompts, reward models of right labels and of labels of which a quarter is flipped. A seed is one of
the reward models and of training; the policy and its answers stay. Answers are chosen by one reward
model, the mean of five, their worst case, and the uncertainty-weighted mean; ReMax and PPO are
trained on each of the noisy ones with next to no KL penalty.

A run that was stopped goes on: its folder is runs/over_optimisation.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.drawing import Line, Panel, write_svg
from benchmarks.figures import Figure, at_least, shown

SEEDS = (0, 1, 2)
COMBINED = {
    "single": "one reward model",
    "mean": "mean of 5",
    "wco": "worst of 5",
    "uwo": "uncertainty-weighted",
}
CHASED = {
    ("bon", "clean"): "best of n, right labels",
    ("bon", "noisy"): "best of n, a quarter flipped",
    ("remax", "noisy"): "ReMax, a quarter flipped",
    ("ppo", "noisy"): "PPO, a quarter flipped",
}
WINDOW = 10  # steps that a point of a trained policy is the mean of
DOCS = Path(__file__).parent.parent / "docs"

Points = list[tuple[float, float, float]]  # (KL in nats, gold reward, reward that was chased)


def run() -> tuple[list[Figure], dict[str, Any]]:
    return experiment("over_optimisation", "over_optimisation", DOCS / "over_optimisation.svg")


def experiment(name: str, pipeline: str, picture: Path) -> tuple[list[Figure], dict[str, Any]]:
    """Run a pipeline with every seed; draw its curves, and compare their ends."""
    found = [measured(name, pipeline, seed) for seed in SEEDS]
    chased = [each for each in CHASED if f"{each[0]}_{each[1]}_single" in found[0]]
    write_svg(picture, [panel(found, *each) for each in chased])
    figures = [figure for each in chased for figure in compared(found, *each)]
    return figures, {"seeds": list(SEEDS), "curves": found}


def measured(name: str, pipeline: str, seed: int) -> dict[str, Points]:
    """Curves by stage of one seed."""
    done = subprocess.run(
        [sys.executable, "-m", "posttrain.cli", "run", pipeline, f"seed={seed}"],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"the run ended with {done.returncode}: {done.stderr[-2000:]}")
    folder = Path("runs") / name
    stages = json.loads((folder / "run.json").read_text())["stages"]
    curves: dict[str, Points] = {}
    for stage in stages:
        own = folder / stage["name"] / stage["identity"]
        if stage["kind"] == "best_of_n":
            curves |= {f"{stage['name']}_{part}": c for part, c in of_parts(own).items()}
        elif stage["kind"] == "online_rl":
            curves[stage["name"]] = of_training(own)
    return curves


def of_parts(folder: Path) -> dict[str, Points]:
    """Best of n, by who chooses."""
    parts = json.loads((folder / "measurements.json").read_text())["best_of_n"]["parts"]
    return {
        part: [(each["kl"], each["gold"]["value"], each["proxy"]["value"]) for each in points]
        for part, points in parts.items()
    }


def of_training(folder: Path) -> Points:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    names = ("policy/kl_reference_nats", "reward/watch_mean", "reward/mean")
    rows = [row for line in lines if all(name in (row := json.loads(line)) for name in names)]
    parts = [rows[i : i + WINDOW] for i in range(0, len(rows) - WINDOW + 1, WINDOW)]
    means = [[statistics.fmean(row[name] for row in part) for name in names] for part in parts]
    return [(kl, gold, proxy) for kl, gold, proxy in means]


def compared(found: Sequence[Mapping[str, Points]], chaser: str, labels: str) -> list[Figure]:
    """Gold at the far end of each curve, what a single model lost, and what caution keeps."""
    what = CHASED[chaser, labels]
    ends = {
        combine: [curves[f"{chaser}_{labels}_{combine}"][-1][1] for curves in found]
        for combine in COMBINED
    }
    singles = [curves[f"{chaser}_{labels}_single"] for curves in found]
    lost = [max(gold for _, gold, _ in curve) - curve[-1][1] for curve in singles]
    figures = [shown(f"{what}: gold, {COMBINED[c]}", values, "") for c, values in ends.items()]
    figures.append(shown(f"{what}: gold that one reward model lost from its peak", lost, ""))
    for combine in ("mean", "wco", "uwo"):
        kept = [own - one for own, one in zip(ends[combine], ends["single"], strict=True)]
        figures.append(at_least(f"{what}: {COMBINED[combine]} minus one reward model", kept, 0, ""))
    return figures


def panel(found: Sequence[Mapping[str, Points]], chaser: str, labels: str) -> Panel:
    """A line for each way of combining: the mean over seeds, in a band from least to most."""
    lines = []
    for combine, name in COMBINED.items():
        curves = [each[f"{chaser}_{labels}_{combine}"] for each in found]
        steps = list(zip(*curves, strict=False))
        golds = [[point[1] for point in step] for step in steps]
        lines.append(
            Line(
                name,
                [statistics.fmean(point[0] for point in step) for step in steps],
                [statistics.fmean(values) for values in golds],
                [min(values) for values in golds],
                [max(values) for values in golds],
            )
        )
    title = CHASED[chaser, labels]
    return Panel(title[0].upper() + title[1:], "KL to the start, nats", "gold reward", lines)
