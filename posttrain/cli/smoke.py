"""`posttrain run --smoke`: what it says before, and after, and how many GPUs it may count on."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from posttrain.cli.execute import Execution, RunOptions
from posttrain.cli.output import say
from posttrain.config.load import LoadedPipeline
from posttrain.config.pipeline import Cluster, ModelStage
from posttrain.config.smoke import STEPS, smoke, smoke_name
from posttrain.doctor.gpus import visible
from posttrain.pipeline.check import check
from posttrain.pipeline.store import RunFolder
from posttrain.track.formatting import long_duration
from posttrain.track.jsonl import read_jsonl

_GPU = re.compile(r"nvidia\d+")
ON_A_CLUSTER = 10**6  # GPUs of a running Ray cluster: it says itself where they do not suffice


def run_smoke(file: str, loaded: LoadedPipeline, options: RunOptions) -> None:
    """Check the file as it is, cut it down, run what is left. Raises as `Execution.carry_out`."""
    check(loaded).raise_if_any()
    small = cut_down(loaded, options.address)
    if options.name is not None:
        options = replace(options, name=smoke_name(options.name))
    for line in introduction(loaded, small):
        say(line)
    began = time.time()
    Execution(small, options).carry_out()
    folder = RunFolder(options.runs_dir / (options.name or small.pipeline.name))
    for line in conclusion(file, folder, began):
        say(line)


def cut_down(loaded: LoadedPipeline, address: str | None) -> LoadedPipeline:
    """The pipeline for this machine, or for the running cluster at an address."""
    return smoke(loaded, num_gpus(os.environ) if address is None else ON_A_CLUSTER)


def num_gpus(environment: Mapping[str, str], devices: Path = Path("/dev")) -> int:
    """NVIDIA GPUs that a process here may use; importing torch to ask takes seconds."""
    there = sum(1 for each in devices.glob("nvidia*") if _GPU.fullmatch(each.name))
    return len(visible(range(there), environment.get("CUDA_VISIBLE_DEVICES")))


def introduction(loaded: LoadedPipeline, small: LoadedPipeline) -> list[str]:
    """What is tried and what is not."""
    lines = [
        f"smoke: {STEPS} steps of every stage, on few rows: every part runs, no number means"
        " anything, no gate stops it",
    ]
    for name, stage in small.pipeline.stages.items():
        if isinstance(stage, ModelStage) and stage.tiny:
            lines.append(
                f"  {name}: a tiny random model of the architecture of {stage.path}, with its"
                f" tokenizer; with its own weights: stages.{name}.tiny=false"
            )
    asked, here = _where(loaded.cluster), _where(small.cluster)
    return lines if asked == here else [*lines, f"  {asked} in the file, here {here}"]


def conclusion(file: str, folder: RunFolder, began: float) -> list[str]:
    """That it went well, the gates as they stand, and what to do next."""
    events = [
        each
        for each in read_jsonl(folder.path / "events.jsonl")
        if each.get("name") == "gate" and each.get("time", 0.0) >= began
    ]
    gates = [f"  gate {each['stage']}: {each['text']}" for each in events]
    took = long_duration(time.time() - began)
    return [*gates, f"smoke passed in {took}: every stage ran. For real: posttrain run {file}"]


def _where(cluster: Cluster) -> str:
    """`8 engines + 24 trainers on GPUs in bf16`."""
    counts = [
        f"{count} {noun}{'' if count == 1 else 's'}"
        for count, noun in ((cluster.engines, "engine"), (cluster.trainers, "trainer"))
    ]
    where = "on GPUs" if cluster.gpus_per_engine + cluster.gpus_per_trainer else "on the CPU"
    return f"{' + '.join(counts)} {where} in {cluster.precision}"
