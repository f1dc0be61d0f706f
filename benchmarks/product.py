"""`posttrain run` on a workload, in a process of its own, as a user would start it.

One thing alone is not the user's: engines end each answer at the workload's length
(`workload.plan_lengths`), so a process of ours starts the command with such engines in place of the
ordinary ones. Measured is what the run itself wrote down.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.workload import REWARD_SOURCE, Workload, build_model, prompt_text

PLAN = "POSTTRAIN_BENCHMARK_PLAN"  # environment variable: the workload, for the engines' processes
STAGE_SEED = 7
EXTRA_DRAWS = 8  # steps: draws that are begun and never trained have a length too


@dataclass(frozen=True, slots=True)
class ProductSettings:
    """What our users may choose, as far as it can matter for speed on CPUs."""

    engines: int = 1
    trainers: int = 1
    cpus: int = 2  # as told to the product; it decides how many threads a trainer gets
    staleness: Mapping[str, int] = field(default_factory=lambda: {"max": 4, "ahead": 2})
    proximal: str = "interpolate"
    max_running: int = 256
    tokens_per_micro_batch: int = 4096
    precision: str = "fp32"
    algorithm: Mapping[str, Any] = field(default_factory=lambda: {"name": "grpo"})


def run_product(
    folder: Path, workload: Workload, settings: ProductSettings
) -> list[dict[str, Any]]:
    """The metrics rows of the run's trainer, one per step, oldest first."""
    folder.mkdir(parents=True, exist_ok=True)
    write_pipeline(folder, workload, settings)
    repository = str(Path(__file__).parent.parent)
    environment = os.environ | {
        PLAN: json.dumps(asdict(workload)),
        "PYTHONPATH": os.pathsep.join([repository, *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.product", "pipeline.yaml"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(
            f"the run in {folder} ended with {done.returncode}: {done.stderr[-2000:]}"
        )
    rows = [
        json.loads(line)
        for line in next(folder.glob("runs/*/rl/*/metrics.jsonl")).read_text().splitlines()
    ]
    return merged_by_step(rows)


def merged_by_step(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Trainer's and engines' rows of the same step as one; `time` is the trainer's."""
    steps: dict[int, dict[str, Any]] = {}
    for row in rows:
        if "axis/step" not in row:
            continue
        merged = steps.setdefault(int(row["axis/step"]), {})
        is_trainers = "train/loss" in row
        time = row["time"] if is_trainers else merged.get("time")
        merged |= row | {"time": time}
    return [steps[step] for step in sorted(steps) if steps[step]["time"] is not None]


def step_seconds(rows: Sequence[dict[str, Any]]) -> list[float]:
    """Between the ends of one step and the next."""
    ends = [row["time"] for row in rows]
    return [after - before for before, after in itertools.pairwise(ends)]


def mean_of(rows: Sequence[dict[str, Any]], name: str) -> float:
    """A metric's mean over the steps that have it; NaN where none has."""
    values = [row[name] for row in rows if name in row]
    return statistics.fmean(values) if values else float("nan")


def write_pipeline(folder: Path, workload: Workload, settings: ProductSettings) -> None:
    """A model folder, prompts, a reward and the pipeline file."""
    build_model(folder / "model", workload)
    (folder / "reward.py").write_text(REWARD_SOURCE)
    draws = (workload.num_steps + EXTRA_DRAWS) * workload.groups_per_step
    with (folder / "prompts.jsonl").open("w") as file:
        for draw in range(draws):
            file.write(json.dumps({"prompt": prompt_text(draw)}) + "\n")
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(pipeline(workload, settings)))


def pipeline(workload: Workload, settings: ProductSettings) -> dict[str, Any]:
    """The pipeline file's content."""
    kv_cache_mb = 512
    return {
        "name": "bench",
        "wandb": {"mode": "disabled"},
        "cluster": {
            "engines": settings.engines,
            "trainers": settings.trainers,
            "cpus": settings.cpus,
            "precision": settings.precision,
            "engine": {"kv_cache_mb": kv_cache_mb, "max_running": settings.max_running},
        },
        "stages": {
            "start": {"kind": "model", "path": "./model"},
            "rl": {
                "kind": "online_rl",
                "model": "start",
                "seed": STAGE_SEED,
                "algorithm": {"lr": 1e-4, **settings.algorithm},
                "reward": "./reward.py",
                "data": "./prompts.jsonl",
                "batch": {
                    "prompts": workload.groups_per_step,
                    "samples_per_prompt": workload.samples_per_prompt,
                    "tokens_per_micro_batch": settings.tokens_per_micro_batch,
                },
                "steps": workload.num_steps,
                "staleness": dict(settings.staleness),
                "off_policy": {"proximal": settings.proximal},
                "sampling": {"max_new_tokens": workload.longest_tokens},
                "checkpoint_every": 1000,
                "logprob_check_every": 1000,
            },
        },
    }


def planned_engine_actor() -> type:
    """The product's engine actor, with engines that end each answer as planned."""
    from posttrain.cluster.actors import EngineActor

    class PlannedEngineActor(EngineActor):
        def __init__(self, spec: Any, name: str) -> None:
            super().__init__(spec, name)
            from benchmarks.workload import lengths_by_seed, plan_lengths

            workload = Workload(**json.loads(os.environ[PLAN]))
            draws = (workload.num_steps + EXTRA_DRAWS) * workload.groups_per_step
            lengths = lengths_by_seed(workload, STAGE_SEED, draws)
            build = self._engine._build

            def build_planned() -> Any:
                engine = build()
                plan_lengths(engine, lengths)
                return engine

            self._engine._build = build_planned  # type: ignore[method-assign]

    return PlannedEngineActor


def main() -> int:
    from posttrain.cluster import environment

    environment.prepare_ray(None)
    from posttrain.cli import main as command
    from posttrain.cluster import engines

    engines.EngineActor = planned_engine_actor()  # type: ignore[assignment, misc]
    sys.argv = ["posttrain", "run", *sys.argv[1:]]
    return command()


if __name__ == "__main__":
    sys.exit(main())
