"""Runs on the micro world's arithmetic: one model that can do some of it, many ways to train it on.

All stages stand in one pipeline file, so they start from the same model and share their engine.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ARITHMETIC = "microworld/arithmetic"
PROMPTS_ASKED = 1024
T95_TWO_DEGREES = 4.302653  # 97.5 % quantile of Student's t: three seeds leave two degrees
BEFORE = "sft"  # the stage that all others start from


def pipeline(name: str, stages: Mapping[str, Any], asked: Sequence[str]) -> dict[str, Any]:
    """A pipeline file: `stages` after the model that they start from; at the end the models of
    `asked` answer the same held-out problems.
    """
    pretrain = {"kind": "sft", "uses": "sft/pretrain"}
    return {
        "name": name,
        "seed": 0,
        # One thread per process on any machine: sums in another order are other sums.
        "cluster": {"engines": 1, "trainers": 1, "cpus": 2},
        "wandb": {"mode": "disabled"},
        "suites": {
            "asked": {
                "gain": [ARITHMETIC],
                "prompts_per_task": PROMPTS_ASKED,
                "when": "only_final",
            }
        },
        "stages": {
            "blank": {"kind": "model", "from_scratch": "micro"},
            "base": pretrain | {"model": "blank", "data": "microworld/skills"},
            BEFORE: pretrain
            | {"model": "base", "data": "microworld/arithmetic_worked", "algorithm": {"lr": 2e-3}},
            **stages,
            "final": {"kind": "evaluate", "models": [BEFORE, *asked], "suite": "asked"},
        },
    }


def run_pipeline(folder: Path, document: Mapping[str, Any]) -> Path:
    """Run it as a user would; the folder with its stages."""
    file = f"{document['name']}.yaml"
    (folder / file).write_text(yaml.safe_dump(dict(document), sort_keys=False))
    done = subprocess.run(
        [sys.executable, "-m", "posttrain.cli", "run", file],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{file} ended with {done.returncode}: {done.stderr[-2000:]}")
    return folder / "runs" / str(document["name"])


def scores(stages: Path) -> dict[str, float]:
    """Per cent of the problems that each stage's model solves."""
    document = json.loads((only(stages, "final") / "measurements.json").read_text())
    return {stage: 100 * tasks[ARITHMETIC]["value"] for stage, tasks in document["models"].items()}


def trainer_rows(stages: Path, stage: str) -> list[dict[str, float]]:
    """The trainer's metrics, one row per step."""
    lines = (only(stages, stage) / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "train/loss" in row]


def only(stages: Path, stage: str) -> Path:
    """The stage's folder: there is one identity of each."""
    return next(path for path in (stages / stage).iterdir() if path.is_dir())
