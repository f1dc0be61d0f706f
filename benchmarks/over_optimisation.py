"""What ensembles are worth where labels are wrong: gold reward against distance, three seeds.

The pipeline `over_optimisation`: one policy, one pool of 4,096 answers to each of 32 held-out
prompts, reward models of right labels and of labels of which a quarter is flipped. A seed is one of
the reward models and of ReMax; the policy and its answers stay. Best-of-n is chosen by one reward
model, the mean of four, their worst case, and uncertainty-weighted; ReMax is trained on each of the
noisy ones with next to no KL penalty.

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
    "mean": "mean of 4",
    "wco": "worst of 4",
    "uwo": "UWO of 4",
}
LABELS = {"clean": "right labels", "noisy": "a quarter flipped"}
WINDOW = 10  # steps that a point of ReMax is the mean of
PICTURE = Path(__file__).parent.parent / "docs" / "over_optimisation.svg"

Points = list[tuple[float, float, float]]  # (KL in nats, gold reward, reward that was chased)


def run() -> tuple[list[Figure], dict[str, Any]]:
    found = [measured(seed) for seed in SEEDS]
    write_svg(PICTURE, panels(found))
    figures: list[Figure] = []
    for labels in LABELS:
        names = {combine: f"bon_{labels}_{combine}" for combine in COMBINED}
        figures += compared(found, names, f"best of 4096, {LABELS[labels]}")
    names = {combine: f"remax_noisy_{combine}" for combine in COMBINED}
    figures += compared(found, names, f"ReMax, {LABELS['noisy']}")
    return figures, {"seeds": list(SEEDS), "curves": found}


def compared(
    found: Sequence[Mapping[str, Points]], names: Mapping[str, str], what: str
) -> list[Figure]:
    """Gold at the far end of each curve, what a single model loses, and what caution keeps."""
    ends = {combine: [curves[name][-1][1] for curves in found] for combine, name in names.items()}
    peaks = [max(gold for _, gold, _ in curves[names["single"]]) for curves in found]
    lost = [peak - end for peak, end in zip(peaks, ends["single"], strict=True)]
    figures = [shown(f"{what}: gold by {COMBINED[c]}", values, "") for c, values in ends.items()]
    figures.append(shown(f"{what}: gold that one model lost from its peak", lost, ""))
    for combine in ("wco", "uwo"):
        kept = [own - one for own, one in zip(ends[combine], ends["single"], strict=True)]
        figures.append(at_least(f"{what}: {COMBINED[combine]} minus one model", kept, 0.0, ""))
    return figures


def measured(seed: int) -> dict[str, Points]:
    """Curves by stage of one seed."""
    done = subprocess.run(
        [sys.executable, "-m", "posttrain.cli", "run", "over_optimisation", f"seed={seed}"],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"the run ended with {done.returncode}: {done.stderr[-2000:]}")
    folder = Path("runs") / "over_optimisation"
    stages = json.loads((folder / "run.json").read_text())["stages"]
    return {
        stage["name"]: curve(folder / stage["name"] / stage["identity"])
        for stage in stages
        if stage["kind"] in ("best_of_n", "online_rl")
    }


def curve(folder: Path) -> Points:
    document = folder / "measurements.json"
    if document.exists():
        points = json.loads(document.read_text())["best_of_n"]["points"]
        return [(each["kl"], each["gold"]["value"], each["proxy"]["value"]) for each in points]
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    names = ("policy/kl_reference_nats", "reward/watch_mean", "reward/mean")
    rows = [row for line in lines if all(name in (row := json.loads(line)) for name in names)]
    parts = [rows[i : i + WINDOW] for i in range(0, len(rows) - WINDOW + 1, WINDOW)]
    return [
        tuple(statistics.fmean(row[name] for row in part) for name in names)  # type: ignore[misc]
        for part in parts
    ]


def panels(found: Sequence[Mapping[str, Points]]) -> list[Panel]:
    """One for each way of choosing; a line is the mean over seeds, with the seeds' spread."""
    drawn = []
    for kind, labels in (("bon", "clean"), ("bon", "noisy"), ("remax", "noisy")):
        title = f"{'Best of n' if kind == 'bon' else 'ReMax'}, {LABELS[labels]}"
        lines = []
        for combine, name in COMBINED.items():
            curves = [each[f"{kind}_{labels}_{combine}"] for each in found]
            steps = list(zip(*curves, strict=False))
            lines.append(
                Line(
                    name,
                    [statistics.fmean(point[0] for point in step) for step in steps],
                    [statistics.fmean(point[1] for point in step) for step in steps],
                    [min(point[1] for point in step) for step in steps],
                    [max(point[1] for point in step) for step in steps],
                )
            )
        drawn.append(Panel(title, "KL to the start, nats", "gold reward", lines))
    return drawn
