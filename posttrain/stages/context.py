"""What every stage is given, and small things that several kinds of stage derive from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from posttrain.config.pipeline import Cluster
from posttrain.ports import EngineSpec, Tracker
from posttrain.stages.launcher import Launcher
from posttrain.types import Artifact

LENGTH_STEP = 512  # engine lengths are rounded up to this, so that stages can share engines


@dataclass(frozen=True, slots=True)
class StageContext:
    """Where a stage runs and what it builds on."""

    name: str
    directory: Path  # absolute
    inputs: Mapping[str, Artifact]  # by stage name
    launcher: Launcher
    tracker: Tracker
    cluster: Cluster
    num_cores: int
    seed: int
    attempt: int

    def has(self, artifact: str) -> bool:
        """Whether an earlier attempt made it, and was killed before its manifest could say so."""
        return (self.directory / artifact).exists()


def context_length(model_path: str) -> int:
    """Tokens that a model can attend to, from its config.json."""
    config = json.loads((Path(model_path) / "config.json").read_text())
    return int(config["max_position_embeddings"])


def engine_spec(cluster: Cluster, model_path: str, needed_tokens: int) -> EngineSpec:
    """An engine long enough for `needed_tokens` (prompt and answer), no longer than the model
    allows.
    """
    rounded = -(-needed_tokens // LENGTH_STEP) * LENGTH_STEP
    return EngineSpec(
        model_path=model_path,
        max_model_len=min(context_length(model_path), rounded),
        precision=cluster.precision,
        kv_cache_mb=cluster.engine.kv_cache_mb,
        eager=cluster.engine.eager,
        block_size=cluster.engine.block_size,
        max_running=cluster.engine.max_running,
        gpus=cluster.gpus_per_engine,
        weight_sync=cluster.weight_sync,
    )
