"""Which model folder a person means."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from posttrain.cli.chat import model_folder
from posttrain.errors import InputError, Problem


def write_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`runs/mine`: sft has a model, rlvr is not there yet, final recommended sft."""
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "mine"
    write_model(run / "sft" / "aaaa" / "model")
    (run / "sft" / "aaaa" / "manifest.json").write_text('{"state": "done"}')
    (run / "rlvr" / "bbbb").mkdir(parents=True)
    (run / "rlvr" / "bbbb" / "manifest.json").write_text('{"state": "running"}')
    (run / "run.json").write_text(
        '{"started": 1.0, "stages": [{"name": "sft", "identity": "aaaa"},'
        ' {"name": "rlvr", "identity": "bbbb"}]}'
    )
    (run / "best").symlink_to("sft/aaaa/model")
    return tmp_path / "runs"


def problem_of(runs: Path, name: str | None) -> Problem:
    with pytest.raises(InputError) as caught:
        model_folder(runs, name)
    [problem] = caught.value.problems
    return problem


def test_a_stage_of_a_run(runs: Path) -> None:
    model = runs / "mine" / "sft" / "aaaa" / "model"
    assert model_folder(runs, "mine/sft") == model
    assert model_folder(runs, "mine/sft/aaaa") == model
    assert model_folder(runs, str(runs / "mine" / "sft")) == model


def test_a_run_means_its_best_model(runs: Path) -> None:
    model = runs / "mine" / "sft" / "aaaa" / "model"
    assert model_folder(runs, "mine") == model
    assert model_folder(runs, None) == model


def test_without_a_name_the_newest_run_is_meant(runs: Path) -> None:
    newer = write_model(runs / "newer" / "best")
    (runs / "newer" / "run.json").write_text('{"started": 2.0}')
    os.utime(runs / "newer" / "run.json", (0, 0))  # what the file says counts, not its own time
    assert model_folder(runs, None) == newer


def test_any_model_folder_by_its_path(runs: Path, tmp_path: Path) -> None:
    here = write_model(tmp_path / "downloaded")
    assert model_folder(runs, str(here)) == here
    assert model_folder(runs, "downloaded") == Path("downloaded")


def test_a_stage_without_a_model_is_said(runs: Path) -> None:
    problem = problem_of(runs, "mine/rlvr")
    assert (problem.code, problem.message) == ("no-model", "has no model")
    assert problem.path == str(runs / "mine" / "rlvr" / "bbbb")
    assert problem.help == "name a stage: posttrain chat mine/STAGE"


def test_a_run_that_recommended_nothing_is_said(runs: Path) -> None:
    (runs / "mine" / "best").unlink()
    problem = problem_of(runs, "mine")
    assert problem.message == "has recommended no model yet"
    assert problem.path == str(runs / "mine")


def test_a_best_link_whose_model_is_gone_is_said(runs: Path) -> None:
    (runs / "mine" / "sft" / "aaaa" / "model" / "config.json").unlink()
    assert problem_of(runs, "mine").code == "no-model"


def test_a_run_that_is_not_there(runs: Path) -> None:
    problem = problem_of(runs, "mien")
    assert problem.code == "unknown-run"
    assert problem.message == f"no run `mien` in {runs}"
    assert problem.help == "did you mean `mine`?"


@pytest.mark.parametrize("name", ["mine-smoke", "mine-measure"])
def test_without_a_name_a_trial_of_a_file_is_not_meant(runs: Path, name: str) -> None:
    trial = write_model(runs / name / "best")
    (runs / name / "run.json").write_text('{"started": 2.0}')
    assert model_folder(runs, None) == runs / "mine" / "sft" / "aaaa" / "model"
    assert model_folder(runs, name) == trial


def test_without_a_name_a_run_that_has_no_model_yet_is_not_meant(runs: Path) -> None:
    (runs / "newer").mkdir()
    (runs / "newer" / "run.json").write_text('{"started": 2.0}')
    assert model_folder(runs, None) == runs / "mine" / "sft" / "aaaa" / "model"
