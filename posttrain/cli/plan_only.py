"""A plan for commands that look and do not run."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from posttrain.pipeline.plan import RunPlan


def plan_without_run(file: str, overrides: Sequence[str]) -> RunPlan:
    """Check a pipeline and resolve its stages against an empty run folder. Raises InputError."""
    from posttrain.config.load import load_pipeline
    from posttrain.pipeline.check import check
    from posttrain.pipeline.plan import make_plan
    from posttrain.pipeline.store import RunFolder

    report = check(load_pipeline(file, overrides))
    report.raise_if_any()
    with tempfile.TemporaryDirectory(prefix="posttrain-") as scratch:
        return make_plan(load_pipeline(file, overrides), report.graph, RunFolder(Path(scratch)))
