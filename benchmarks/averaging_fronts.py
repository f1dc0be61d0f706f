"""Uniform against layer-wise averaging in the micro world: what gain each leaves for what tax.

Every seed is a run of its own, from random weights: a model that can copy, reverse, sort and count
learns arithmetic by shown answers, then from a checker (the quickstart's stages). Then one average
stage makes a model of each share of `sft` in `rlvr`, by layers and uniformly, and asks all of them
the same questions. A front's number is its hypervolume below the reference (gain 0, tax 100
points), in per cent of that square: the gain to be had, averaged over every bound on the tax. Both
fronts begin with the same model (share 0), so what lies beyond it is in both numbers, and the
difference says what the method changes. Its noise is half of the 95 % t-interval over the seeds.

The layer-wise stage fails where none of its models has a tax below the bound; the bound is none.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.arithmetic import ARITHMETIC, T95_TWO_DEGREES, only, run_pipeline
from benchmarks.drawing import Line, Panel, write_svg
from benchmarks.figures import Figure, mean_at_least, shown

METHODS = {"layerwise": "layer-wise", "linear": "uniform"}
KEPT = ["copy", "reverse", "sort", "count"]
PICTURE = Path(__file__).parent.parent / "docs" / "averaging_fronts.svg"

Front = list[tuple[float, float, float]]  # (share of `sft`, gain, tax), shares 0..1


@dataclass(frozen=True, slots=True)
class Size:
    """How much is trained and asked."""

    seeds: tuple[int, ...] = (0, 1, 2)
    shares: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8)
    sft_steps: int = 600
    rl_steps: int = 60
    prompts: int = 32
    samples_per_prompt: int = 8
    asked: int = 1024  # questions of each of five tasks


@dataclass(frozen=True, slots=True)
class Measured:
    """What one seed gave, by method."""

    fronts: Mapping[str, Front]
    areas: Mapping[str, float]  # per cent


def run() -> tuple[list[Figure], dict[str, Any]]:
    return experiment(Size(), PICTURE)


def experiment(size: Size, picture: Path) -> tuple[list[Figure], dict[str, Any]]:
    """All seeds in the micro world."""

    def front_of(seed: int) -> Measured:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            return front_in(Path(folder), pipeline(size, seed))

    figures, fronts = of_seeds(size.seeds, front_of, picture)
    return figures, asdict(size) | {"fronts": fronts}


def of_seeds(
    seeds: Sequence[int], front_of: Callable[[int], Measured], picture: Path
) -> tuple[list[Figure], dict[str, Any]]:
    """Draws the fronts of all seeds, and compares their areas."""
    found = {f"seed {seed}": front_of(seed) for seed in seeds}
    write_svg(picture, [panel(name.capitalize(), each) for name, each in found.items()])
    return compared(list(found.values())), {name: each.fronts for name, each in found.items()}


def front_in(folder: Path, document: Mapping[str, Any]) -> Measured:
    """What the `average` stage of a pipeline finds, run in a folder."""
    stages = run_pipeline(folder, document)
    return read_front(json.loads((only(stages, "average") / "front.json").read_text()))


def read_front(document: Mapping[str, Any]) -> Measured:
    """Of the average stage's front.json."""
    fronts: dict[str, Front] = {method: [] for method in METHODS}
    for each in document["points"]:
        point = each["weight_pre"], each["gain"]["value"], each["tax"]["value"]
        fronts[each["method"]].append(point)
    areas = {method: 100 * area for method, area in document["hypervolume"]["of"].items()}
    return Measured(fronts, areas)


def pipeline(size: Size, seed: int) -> dict[str, Any]:
    """The quickstart's stages, and a sweep in place of its average."""
    pretrain = {"kind": "sft", "uses": "sft/pretrain", "steps": size.sft_steps}
    return {
        "name": f"averaging_fronts_{seed}",
        "seed": seed,
        # One thread per process on any machine: sums in another order are other sums.
        "cluster": {"engines": 1, "trainers": 1, "cpus": 2},
        "wandb": {"mode": "disabled"},
        "suites": {
            "abilities": {
                "gain": [ARITHMETIC],
                "keep": [f"microworld/{task}" for task in KEPT],
                "prompts_per_task": size.asked,
                "when": "only_final",
                "tax_since": "base",
            }
        },
        "stages": {
            "blank": {"kind": "model", "from_scratch": "micro"},
            "base": pretrain | {"model": "blank", "data": "microworld/skills"},
            "sft": pretrain
            | {"model": "base", "data": "microworld/arithmetic_worked", "algorithm": {"lr": 2e-3}},
            "rlvr": {
                "kind": "online_rl",
                "model": "sft",
                "algorithm": {"name": "grpo", "lr": 2e-4},
                "reward": "arithmetic",
                "data": ARITHMETIC,
                "batch": {"prompts": size.prompts, "samples_per_prompt": size.samples_per_prompt},
                "steps": size.rl_steps,
                "staleness": 1,
                "sampling": {"max_new_tokens": 32},
            },
            "average": {
                "kind": "average",
                "method": "layerwise",
                "pre": "sft",
                "post": "rlvr",
                "weight_pre": list(size.shares),
                "samples": {"keep_best": 512},  # 128 steps of the search
                "recommend": {"tax_at_most": 100},
            },
        },
    }


def compared(found: Sequence[Measured]) -> list[Figure]:
    """The area of each front, and what layers of their own add to it."""
    areas = {method: [each.areas[method] for each in found] for method in METHODS}
    added = [one - other for one, other in zip(areas["layerwise"], areas["linear"], strict=True)]
    figures = [shown(f"front, {name}", areas[method], "%") for method, name in METHODS.items()]
    noise = noise_of(added)
    return [
        *figures,
        mean_at_least("layer-wise - uniform, mean", added, -noise, "points"),
        shown("layer-wise - uniform, noise", [noise], "points"),
    ]


def noise_of(values: Sequence[float]) -> float:
    """Half of the 95 % t-interval of the mean of three; of fewer nothing is known, and it is 0."""
    if len(values) < 3:
        return 0.0
    return T95_TWO_DEGREES * statistics.stdev(values) / len(values) ** 0.5


def panel(title: str, found: Measured) -> Panel:
    """Gain against tax of one seed, a line for each method from share 0 on."""
    lines = [
        Line(name, [100 * tax for *_, tax in front], [100 * gain for _, gain, _ in front])
        for method, name in METHODS.items()
        if (front := sorted(found.fronts[method]))
    ]
    return Panel(title, "tax, points", "gain, %", lines)
