"""Room on the disk: what a run will store, and whether it can."""

from __future__ import annotations

import os
from pathlib import Path

from posttrain.config.pipeline import ModelStage
from posttrain.errors import InputError, Problem
from posttrain.pipeline.plan import RunPlan

SMALLEST_MODEL_BYTES = 4_000_000
CHECKPOINTED_COPIES = 10  # weights, two checkpoints of weights and two moments, in fp32
MARGIN_BYTES = 500_000_000  # logs, rollouts, report


def needed_bytes(plan: RunPlan) -> int:
    """A careful guess of what a run stores: models, and checkpoints of trained stages."""
    models = [
        Path(s.stage.path)
        for s in plan.stages
        if isinstance(s.stage, ModelStage) and s.stage.path is not None and not s.stage.tiny
    ]
    sizes = [sum(f.stat().st_size for f in m.glob("*.safetensors")) for m in models if m.is_dir()]
    largest = max([*sizes, SMALLEST_MODEL_BYTES])
    members = sum(getattr(s.stage, "members", 1) - 1 for s in plan.to_train)  # each a model more
    return MARGIN_BYTES + (len(plan.to_train) * CHECKPOINTED_COPIES + members) * largest


def check_disk(path: Path, needed_bytes: int) -> None:
    """Raise InputError `disk-too-small` where a run cannot be stored."""
    existing = path.resolve()
    while not existing.exists():
        existing = existing.parent
    stats = os.statvfs(existing)
    free = stats.f_bavail * stats.f_frsize
    if free < needed_bytes:
        raise InputError(
            Problem(
                "disk-too-small",
                f"{free / 1e9:.1f} GB are free, the run needs about {needed_bytes / 1e9:.1f} GB",
                path=str(existing),
                help="posttrain clean says what could go; or elsewhere: --runs-dir DIRECTORY",
            )
        )
