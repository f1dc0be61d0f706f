"""The same as `over_optimisation` with a pretrained model: children's stories, and a gold reward
that is a program.

The model is stories260K (a quarter of a million parameters, trained on TinyStories), a folder in
Hugging Face form below the one that POSTTRAIN_MODELS names. It continues stories with 48 tokens.
People here like different words, somebody who speaks, and a length; comparisons are of pairs of the
model's own continuations.
"""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import yaml

from benchmarks.figures import Figure
from benchmarks.over_optimisation import DOCS, experiment

VARIABLE, MODEL = "POSTTRAIN_MODELS", "stories260K"
NAMES = ("Lily", "Tom", "Anna", "Max", "Sara", "Ben", "Mia", "Tim", "Lucy", "Sam")
THINGS = ("cat", "dog", "ball", "tree", "boat", "bird", "box", "hat", "cake", "star", "car", "bear")
BEGINNINGS = (
    "Once upon a time, there was a {kind} named {name}. {name} had a {thing}",
    "One day, {name} went to the park with a {thing}",
    "{name} saw a big {thing}",
    "{name} was sad because the {thing}",
)
TOKENS = 48
GOLD = {
    "combine": "weighted",
    "parts": {
        "varied": {"reward": {"name": "repetition", "n": 1}, "weight": 0.5},
        "speaks": {"reward": {"name": "regex", "pattern": '"[^"]+[.,!?]"'}, "weight": 0.25},
        "long": {
            "reward": {"name": "length", "low": 100, "high": 130, "unit": "characters"},
            "weight": 0.25,
        },
    },
}


def run() -> tuple[list[Figure], dict[str, Any]]:
    folder = os.environ.get(VARIABLE)
    if not folder:
        raise SystemExit(f"{VARIABLE} has to name the folder in which {MODEL} lies")
    write_prompts()
    Path("stories.yaml").write_text(yaml.safe_dump(pipeline(str(Path(folder).resolve() / MODEL))))
    picture = DOCS / "over_optimisation_stories.svg"
    return experiment("over_optimisation_stories", "stories.yaml", picture)


def write_prompts() -> None:
    for file, rows in zip(("pairs", "pool"), beginnings(), strict=True):
        lines = [json.dumps({"prompt": text}) + "\n" for text, _ in rows]
        Path(f"stories_{file}.jsonl").write_text("".join(lines))


def beginnings() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(to train on, every third: held out), each with the name of its child."""
    found = [
        (
            beginning.format(kind="girl" if name[-1] in "aiy" else "boy", name=name, thing=thing),
            name,
        )
        for beginning, name, thing in itertools.product(BEGINNINGS, NAMES, THINGS)
    ]
    return [each for i, each in enumerate(found) if i % 3], found[::3]


def pipeline(model: str) -> dict[str, Any]:
    """The pipeline file's content."""
    sampling = {"max_new_tokens": TOKENS}
    asked = {"kind": "generate", "model": "stories", "sampling": sampling, "seed": 1}
    learning = {
        "kind": "reward_model",
        "model": "stories",
        "members": 5,
        "uses": "reward_model/small",
    }
    stages: dict[str, Any] = {
        "stories": {"kind": "model", "path": model},
        "pool": asked
        | {"data": {"path": "stories_pool.jsonl", "take": 16}, "samples_per_prompt": 1024},
        "pairs": asked
        | {
            "data": "stories_pairs.jsonl",
            "samples_per_prompt": 5,
            "scored_by": GOLD,
            "select": {"name": "dno", "min_chosen": 0.0, "gap": 0.02, "gap_of_own": 0.02},
        },
        "clean": learning | {"data": {"stage": "pairs"}},
        "noisy": learning | {"data": {"stage": "pairs", "flip_labels": 0.25}},
    }
    combined: dict[str, dict[str, Any]] = {
        "single": {"combine": "mean", "members": 1},
        "mean": {"combine": "mean"},
        "wco": {"combine": "wco"},
        "uwo": {"combine": "uwo"},
    }
    for labels in ("clean", "noisy"):
        stages[f"bon_{labels}"] = {
            "kind": "best_of_n",
            "samples": "pool",
            "by_part": True,
            "scored_by": {
                "combine": "weighted",
                "parts": {
                    name: {"reward": {"ensemble": labels, **settings}}
                    for name, settings in combined.items()
                },
            },
            "gold": GOLD,
        }
    for name, settings in combined.items():
        stages[f"remax_noisy_{name}"] = {
            "kind": "online_rl",
            "model": "stories",
            "algorithm": {"name": "remax", "lr": 1e-4, "kl_in_reward": 0.001},
            "reward": {"ensemble": "noisy", **settings},
            "watch": GOLD,
            "data": "stories_pairs.jsonl",
            "batch": {"prompts": 64, "samples_per_prompt": 1},
            "steps": 40,
            "staleness": 1,
            "sampling": sampling,
        }
    return {
        "name": "over_optimisation_stories",
        "cluster": "laptop",
        "wandb": {"mode": "disabled"},
        "stages": stages,
    }
