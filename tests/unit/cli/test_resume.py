"""`posttrain resume` where the file was edited meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from posttrain.cli.resume import _refuse_changes
from posttrain.config.load import LoadedPipeline, load_pipeline
from posttrain.errors import InputError, Problem
from posttrain.pipeline.graph import build_graph
from posttrain.pipeline.plan import make_plan
from posttrain.pipeline.store import RunFolder


class Started:
    """A run of the sound pipeline, of which some stages were begun."""

    def __init__(self, tmp_path: Path, file: str) -> None:
        self.folder = RunFolder(tmp_path / "runs" / "mine")
        self.file = file
        loaded = load_pipeline(file)
        self._plan = make_plan(loaded, build_graph(loaded.pipeline), self.folder)
        stages = [{"name": s.name, "identity": s.identity} for s in self._plan.stages]
        self.before: dict[str, Any] = {"file": file, "stages": stages}

    def begin(self, name: str, state: str) -> Path:
        folder = self.folder.stage(name, self._plan[name].identity)
        folder.write_manifest({"state": state, "ended": 1.0})
        (folder.path / "config.yaml").write_text(yaml.safe_dump(self._plan[name].config()))
        return folder.path

    def edited(self, *overrides: str) -> LoadedPipeline:
        return load_pipeline(self.file, overrides)

    def problem(self, *overrides: str) -> Problem:
        with pytest.raises(InputError) as caught:
            _refuse_changes(self.folder, self.edited(*overrides), self.before)
        return caught.value.problems[0]


@pytest.fixture
def started(tmp_path: Path, write_pipeline: Callable[..., str]) -> Started:
    return Started(tmp_path, write_pipeline())


def commit(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "latest.json").write_text("{}")


def test_a_stage_that_is_done_is_not_silently_done_again(started: Started) -> None:
    started.begin("base", "done")
    started.begin("sft", "done")
    problem = started.problem("stages.base.steps=11")
    name = Path(started.file).name
    assert problem.code == "config-changed"
    assert problem.message == f"stage base is done, and {name} now says steps 10 → 11"
    assert problem.help.endswith("`run` does what has changed from its start (2 stages)")


@pytest.mark.parametrize("checkpoints", ["checkpoints", "checkpoints/member-2"])
def test_nor_is_one_that_has_a_checkpoint(started: Started, checkpoints: str) -> None:
    commit(started.begin("rlvr", "running") / checkpoints)
    problem = started.problem("stages.rlvr.algorithm.lr=1e-4")
    assert "stage rlvr is half done, and " in problem.message
    assert problem.message.endswith("now says algorithm.lr 3e-4 → 1e-4")
    assert problem.help.endswith("from its start (one stage)")


@pytest.mark.parametrize(
    "made",
    [
        "model",
        "members/0",
        "soup.json",
        "dataset/samples/000000.parquet",
        "asked/dpo/samples/000000.parquet",
        "scored/000000-4.json",
    ],
)
def test_nor_one_that_has_made_something(started: Started, made: str) -> None:
    (started.begin("sft", "running") / made).mkdir(parents=True)
    assert "stage sft is half done" in started.problem("stages.sft.steps=11").message


def test_a_file_of_other_content_is_told_from_another_setting(started: Started) -> None:
    folder = started.begin("base", "done")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    edited = started.edited("stages.base.steps=11")
    (folder / "config.yaml").write_text(yaml.safe_dump(config | {"steps": 11}))
    with pytest.raises(InputError) as caught:
        _refuse_changes(started.folder, edited, started.before)
    problem = caught.value.problems[0]
    assert problem.message.endswith("what it said, but a file that it names has another content")
    assert problem.help.startswith("with that file as it was, `resume` goes on; `run` does")


def test_what_has_nothing_to_lose_may_be_edited(started: Started) -> None:
    started.begin("rlvr", "failed")
    _refuse_changes(started.folder, started.edited("stages.rlvr.steps=61"), started.before)
    commit(started.begin("sft", "stopped") / "checkpoints")
    _refuse_changes(started.folder, started.edited("stages.rlvr.steps=61"), started.before)
    assert started.problem("stages.sft.steps=11").code == "config-changed"
