"""Plans of the sound pipeline, and run folders that hold what a plan asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from posttrain.config.load import load_pipeline
from posttrain.pipeline.graph import build_graph
from posttrain.pipeline.plan import RunPlan, make_plan
from posttrain.pipeline.store import RunFolder


@pytest.fixture
def rewritten(write_pipeline: Callable[..., str]) -> Callable[..., str]:
    """`rewritten(base, old, new, ...)`: the sound pipeline with the changes of `base`, then each
    `old` replaced wherever it stands.
    """

    def write(base: Iterable[str], *changes: str) -> str:
        file = write_pipeline(*base)
        text = Path(file).read_text()
        for old, new in zip(changes[::2], changes[1::2], strict=True):
            assert old in text
            text = text.replace(old, new)
        Path(file).write_text(text)
        return file

    return write


@pytest.fixture
def run_folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "runs" / "mine")


@pytest.fixture
def plan_of(write_pipeline: Callable[..., str], run_folder: RunFolder) -> Callable[..., RunPlan]:
    """`plan_of("stages.sft.steps=5", changes=("old", "new"))`: a plan with overrides and changed
    text.
    """

    def make(*overrides: str, changes: Iterable[str] = ()) -> RunPlan:
        loaded = load_pipeline(write_pipeline(*changes), overrides)
        return make_plan(loaded, build_graph(loaded.pipeline), run_folder)

    return make


@pytest.fixture
def finish(run_folder: RunFolder) -> Callable[..., None]:
    """`finish(plan, "sft", ended=2.0)`: stages of a plan done, all of them where none is named."""

    def end(plan: RunPlan, *names: str, ended: float = 1.0) -> None:
        for name in names or [stage.name for stage in plan.stages]:
            stage = plan[name]
            folder = run_folder.stage(name, stage.identity)
            manifest: dict[str, Any] = {"state": "done", "ended": ended}
            folder.write_manifest(manifest)
            text = yaml.safe_dump(stage.config(), sort_keys=False, allow_unicode=True)
            (folder.path / "config.yaml").write_text(text)

    return end
