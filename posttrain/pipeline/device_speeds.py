"""What a device does per second where nothing was measured, and how large a model is.

Orders of magnitude, good for a first plan: a run of the pipeline replaces them by what it saw.
Times are seconds, sizes bytes, P is the number of parameters. A decode step costs engine_step_s
and reads all weights once; each running sequence adds engine_sequence_s and 2 P operations.
Training a token takes 6 P operations forward and backward, and 2 P for every further forward pass.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from posttrain.config.pipeline import Cluster, ModelStage, Pipeline
from posttrain.loop.latency import EngineSpeed, TrainerSpeed

MICRO_PARAMETERS = 746_560  # the model that `from_scratch: micro` makes
UNKNOWN_PARAMETERS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class DeviceSpeed:
    """One device. Flops and bytes are what is reached, not the peak."""

    name: str
    engine_step_s: float
    engine_sequence_s: float
    engine_flops_per_s: float
    engine_bytes_per_s: float
    trainer_token_s: float
    trainer_flops_per_s: float
    sync_s: float
    sync_bytes_per_s: float


CPU_CORE = DeviceSpeed(
    name="a CPU core",
    engine_step_s=2e-3,
    engine_sequence_s=42e-6,  # scheduling and sampling in Python
    engine_flops_per_s=65e9,
    engine_bytes_per_s=10e9,
    trainer_token_s=6e-6,
    trainer_flops_per_s=45e9,
    sync_s=0.03,
    sync_bytes_per_s=0.9e9,
)

GPU = DeviceSpeed(
    name="an 80 GB GPU at 40 % of 989 TFLOP/s and 60 % of 3.35 TB/s",
    engine_step_s=4e-3,
    engine_sequence_s=10e-6,
    engine_flops_per_s=0.4 * 989e12,
    engine_bytes_per_s=0.6 * 3.35e12,
    trainer_token_s=0.0,
    trainer_flops_per_s=0.4 * 989e12,
    sync_s=0.1,
    sync_bytes_per_s=20e9,
)


def engine_speed(cluster: Cluster, parameters: float) -> tuple[EngineSpeed, str]:
    """One engine of the cluster, and what it was taken for."""
    device, count = (GPU, cluster.gpus_per_engine) if cluster.gpus_per_engine else (CPU_CORE, 1)
    weights = parameters * _bytes_per_parameter(cluster)
    speed = EngineSpeed(
        base_s=device.engine_step_s + weights / device.engine_bytes_per_s / count,
        per_sequence_s=device.engine_sequence_s
        + 2 * parameters / device.engine_flops_per_s / count,
        max_running=cluster.engine.max_running,
        sync_s=device.sync_s + weights / device.sync_bytes_per_s,
    )
    return speed, device.name


def trainer_speed(
    cluster: Cluster, parameters: float, forward_passes: int
) -> tuple[TrainerSpeed, str]:
    """One trainer of the cluster, and what it was taken for. `forward_passes`: besides training."""
    device = GPU if cluster.gpus_per_trainer else CPU_CORE
    seconds = (6 + 2 * forward_passes) * parameters / device.trainer_flops_per_s
    return TrainerSpeed(seconds_per_token=device.trainer_token_s + seconds), device.name


def _bytes_per_parameter(cluster: Cluster) -> int:
    return {"fp32": 4, "bf16": 2}[cluster.precision]


def model_parameters(pipeline: Pipeline, stage: str) -> tuple[float, str]:
    """(parameters of the model that a stage starts from, where the number comes from)."""
    seen: set[str] = set()
    current = pipeline.stages[stage]
    while not isinstance(current, ModelStage):
        before = getattr(current, "model", None) or getattr(current, "post", None)
        if before is None or before in seen:
            return UNKNOWN_PARAMETERS, "size unknown, taken for 1 B"
        seen.add(before)
        current = pipeline.stages[before]
    if current.path is None:
        return MICRO_PARAMETERS, "from scratch: micro"
    counted = sum(_count(file) for file in sorted(Path(current.path).glob("*.safetensors")))
    if counted:
        return counted, "from its files"
    named = re.search(r"(\d+(?:\.\d+)?)\s?([BMK])(?![a-z])", Path(current.path).name, re.I)
    if named:
        factor = {"B": 1e9, "M": 1e6, "K": 1e3}[named[2].upper()]
        return float(named[1]) * factor, "from its name"
    return UNKNOWN_PARAMETERS, "size unknown, taken for 1 B"


def _count(file: Path) -> int:
    """Numbers in a safetensors file, from its header; 0 where it cannot be read."""
    try:
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    except (OSError, ValueError, MemoryError, OverflowError):
        return 0
    total = 0
    for name, tensor in header.items():
        size = 0 if name == "__metadata__" else 1
        for length in tensor.get("shape", ()):
            size *= length
        total += size
    return total
