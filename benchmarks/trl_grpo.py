"""Samples per second against TRL's GRPOTrainer, both at their best settings for two CPU cores.

Same model, prompts, group size, answer lengths, optimiser steps, number format; start-up excluded.
Both sides first try the settings that their users could choose, then the best of each are measured
in turns, and a ratio is of two runs that followed one another.

TRL generates with transformers' `generate` (rows padded to the longest) or with transformers'
continuous batching. Its vLLM modes do not run on CPUs: colocated, the first weight update raises
(`load_weights` on layers whose weights the CPU backend has packed); with a server, weights travel
by NCCL only.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, at_least, shown
from benchmarks.product import ProductSettings, run_product, step_seconds
from benchmarks.trl_child import TrlSettings
from benchmarks.workload import SIGMA, Workload, build_model

# 256 samples a step: the product's own default batch.
EQUAL = Workload("micro", 32, 8, num_steps=6, median_tokens=64, sigma=0.0)
HEAVY = Workload("micro", 32, 8, num_steps=6, median_tokens=32, sigma=SIGMA)
GOALS = {"equal": 1.2, "heavy-tailed": 5.0}
REPEATS = 3
TRL_WARM_UP, OWN_WARM_UP = 2, 8  # steps that are not counted
OWN_STEPS = 24  # of ours; they are shorter, and the first are made while engines fill

TRL_CANDIDATES = (
    TrlSettings(num_threads=1, micro_batch=32),
    TrlSettings(num_threads=2, micro_batch=32),
    TrlSettings(num_threads=1, num_processes=2, micro_batch=32),
    TrlSettings("continuous", num_threads=2, micro_batch=32),
)
OWN_CANDIDATES = (
    ProductSettings(max_running=128, staleness={"max": 4, "ahead": 1}),
    ProductSettings(max_running=128, staleness={"max": 4, "ahead": 2, "sync_every": 2}),
)


def run() -> tuple[list[Figure], dict[str, Any]]:
    figures: list[Figure] = []
    chosen: dict[str, Any] = {}
    for name, workload in (("equal", EQUAL), ("heavy-tailed", HEAVY)):
        own = _best(OWN_CANDIDATES, workload, own_speed, f"{name}, ours", figures)
        trl = _best(TRL_CANDIDATES, workload, trl_speed, f"{name}, TRL", figures)
        pairs = [(own_speed(workload, own), trl_speed(workload, trl)) for _ in range(REPEATS)]
        ratios = [ours / theirs for ours, theirs in pairs]
        figures.append(at_least(f"{name}, ours / TRL", ratios, GOALS[name], "x"))
        figures.append(shown(f"{name}, ours", [pair[0] for pair in pairs], "samples/s"))
        figures.append(shown(f"{name}, TRL", [pair[1] for pair in pairs], "samples/s"))
        chosen[name] = {"ours": asdict(own), "trl": asdict(trl), "workload": asdict(workload)}
    return figures, chosen


def _best(
    candidates: tuple[Any, ...], workload: Workload, speed: Any, name: str, figures: list[Figure]
) -> Any:
    """The fastest settings; each trial is shown."""
    speeds = {index: speed(workload, settings) for index, settings in enumerate(candidates)}
    for index, value in speeds.items():
        figures.append(shown(f"{name}, try {index + 1}", [value], "samples/s"))
    return candidates[max(speeds, key=lambda index: speeds[index])]


def trl_speed(workload: Workload, settings: TrlSettings) -> float:
    """Samples per second of GRPOTrainer's steps, after the first few."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        answer = Path(folder) / "answer.json"
        build_model(Path(folder) / "model", workload)
        document = {
            "workload": asdict(workload),
            "settings": asdict(settings),
            "folder": str(Path(folder) / "model"),
            "answer": str(answer),
        }
        _run_child(json.dumps(document), settings)
        seconds = json.loads(answer.read_text())["step_s"][TRL_WARM_UP - 1 :]
    return workload.samples_per_step / statistics.fmean(seconds)


def _run_child(document: str, settings: TrlSettings) -> None:
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={settings.num_processes}"]
    launcher += ["--master-port=29655"]
    command = [sys.executable, *(launcher if settings.num_processes > 1 else [])]
    environment = os.environ | {
        "OMP_NUM_THREADS": str(settings.num_threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    done = subprocess.run(
        [*command, "-m", "benchmarks.trl_child", document],
        cwd=Path(__file__).parent.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"TRL with {settings}: {done.stderr[-2000:]}")


def own_speed(workload: Workload, settings: ProductSettings) -> float:
    """Samples per second of `posttrain run`'s steps, once work for several steps is under way, and
    before the engines run out of it.
    """
    longer = replace(workload, num_steps=OWN_STEPS)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        rows = run_product(Path(folder) / "own", longer, settings)
    last = -1 - settings.staleness["max"]
    return workload.samples_per_step / statistics.fmean(step_seconds(rows)[OWN_WARM_UP:last])
