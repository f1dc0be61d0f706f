"""A job's files in the run folder: whole or not there, and once."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from posttrain.cluster import job_files
from posttrain.cluster.job_files import bring


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "job" / "files").mkdir(parents=True)
    (tmp_path / "job" / "files" / "r.py").write_text("# mine")
    return tmp_path / "job"


def test_files_are_brought_with_their_folders(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "runs" / "a" / "submitted" / "0f"
    bring(source, target)
    assert (target / "files" / "r.py").read_text() == "# mine"
    assert [each.name for each in target.parent.iterdir()] == ["0f"]


def test_what_is_there_stays(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "0f"
    bring(source, target)
    (source / "files" / "r.py").write_text("# other")
    bring(source, target)
    assert (target / "files" / "r.py").read_text() == "# mine"


def test_another_job_may_bring_the_same_meanwhile(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "0f"

    def slow(here: Path, there: Path) -> None:
        shutil.copytree(here, there)
        shutil.copytree(here, target)

    stand_in = SimpleNamespace(copytree=slow, rmtree=shutil.rmtree)
    monkeypatch.setattr(job_files, "shutil", stand_in)
    bring(source, target)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["0f", "job"]
