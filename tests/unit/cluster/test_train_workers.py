"""What goes wrong inside a trainer reaches the driver through a file, and only once."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from posttrain.cluster import train_workers
from posttrain.cluster.train_workers import FAILURE_FILE, guarded, raise_failure
from posttrain.errors import (
    DeadlineExceeded,
    InputError,
    PosttrainError,
    Problem,
    RankLost,
    StageFailed,
    WeightsDiffer,
)
from posttrain.weight_sync.shared_directory import PARENT


def fail_with(error: BaseException, directory: Path) -> None:
    """A worker whose body raises."""

    def body(config: Any) -> None:
        assert config["answer"] == 42
        raise error

    guarded(body, {"directory": str(directory), "answer": 42})


def raised(directory: Path) -> PosttrainError:
    with pytest.raises(PosttrainError) as caught:
        raise_failure(directory)
    return caught.value


def test_without_a_failure_nothing_is_written_or_raised(tmp_path: Path) -> None:
    ran = []
    guarded(ran.append, {"directory": str(tmp_path)})
    raise_failure(tmp_path)
    assert ran == [{"directory": str(tmp_path)}]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (
            StageFailed("step 3: loss nan", place="rank 0", help="lower algorithm.lr"),
            "stage-failed",
        ),
        (WeightsDiffer("0.2 nats", place="engine 1", help="resume"), "weights-differ"),
        (DeadlineExceeded("waited 5 s for engine 0", help="look at its log"), "deadline"),
    ],
)
def test_an_error_of_ours_keeps_its_words_and_its_code(
    tmp_path: Path, error: PosttrainError, code: str
) -> None:
    fail_with(error, tmp_path)
    found = raised(tmp_path)
    assert isinstance(found, StageFailed)
    assert (found.code, found.message, found.place, found.help) == (
        code, error.message, error.place, error.help,
    )  # fmt: skip
    assert found.exit_code == 1
    assert found.problem().code == code


def test_an_input_error_keeps_every_problem(tmp_path: Path) -> None:
    problems = [
        Problem("prompt-too-long", "700 tokens", "stages.sft.data", "rows.jsonl", 7, "drop it"),
        Problem("bad-row", "no JSON", file="rows.jsonl", line=9, severity="warning"),
    ]
    fail_with(InputError(problems), tmp_path)
    found = raised(tmp_path)
    assert isinstance(found, InputError)
    assert found.problems == problems
    assert found.exit_code == 2


def test_a_failure_is_raised_once(tmp_path: Path) -> None:
    fail_with(StageFailed("no"), tmp_path)
    raised(tmp_path)
    raise_failure(tmp_path)
    assert not (tmp_path / FAILURE_FILE).exists()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("first line\nsecond line"), "ValueError: first line"),
        (KeyError("weight"), "KeyError: 'weight'"),
        (AssertionError(), "AssertionError"),
        (RuntimeError("\n"), "RuntimeError"),
    ],
)
def test_any_other_error_is_named_and_its_traceback_kept(
    tmp_path: Path, error: Exception, message: str
) -> None:
    fail_with(error, tmp_path)
    found = raised(tmp_path)
    assert (found.code, found.message) == ("stage-failed", message)
    assert found.help == f"the traceback is in {tmp_path}/traceback.txt"
    traceback = (tmp_path / "traceback.txt").read_text()
    assert traceback.startswith("Traceback (most recent call last):\n")
    assert "raise error" in traceback


def test_what_ends_the_process_is_not_caught(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fail_with(KeyboardInterrupt(), tmp_path)
    assert not (tmp_path / FAILURE_FILE).exists()


def test_the_file_is_plain_json(tmp_path: Path) -> None:
    fail_with(StageFailed("größer", place="p", help="h"), tmp_path)
    assert json.loads((tmp_path / FAILURE_FILE).read_text()) == {
        "input": False,
        "code": "stage-failed",
        "message": "größer",
        "place": "p",
        "help": "h",
        "problems": [],
    }


def test_a_killed_rank_is_ray_trains_to_restart(tmp_path: Path) -> None:
    with pytest.raises(RankLost, match="rank 0 waited for the other ranks"):
        fail_with(RankLost("rank 0 waited for the other ranks"), tmp_path)
    raise_failure(tmp_path)


def test_what_one_of_several_ranks_raises_ends_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_workers, "_num_ranks", lambda: 2)
    monkeypatch.setattr(train_workers, "LINGER_S", 0.01)
    with pytest.raises(MemoryError):  # Ray Train ends the others and starts the group again
        fail_with(MemoryError("no room for 3 GB"), tmp_path)
    ran: list[Any] = []
    guarded(ran.append, {"directory": str(tmp_path)})
    assert ran == []  # only to end
    assert raised(tmp_path).message == "MemoryError: no room for 3 GB"


def test_what_every_rank_raises_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_workers, "_num_ranks", lambda: 2)
    fail_with(StageFailed("step 3: loss nan"), tmp_path)
    assert raised(tmp_path).message == "step 3: loss nan"


@pytest.mark.skipif(not PARENT.is_dir(), reason=f"this host has no {PARENT}")
def test_a_trainer_removes_what_one_that_died_left_in_its_hosts_memory() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = PARENT / f"posttrain-{ended.pid}-train-workers-test"
    left.mkdir()
    engine = SimpleNamespace(weight_sync="shm")
    job = SimpleNamespace(engine=engine, directory=f"/runs/r-{os.getpid()}/rlvr/0f", stage="rlvr")
    publisher = train_workers._publisher(job, None)  # type: ignore[arg-type]
    try:
        own = PARENT / f"posttrain-{os.getpid()}-r-{os.getpid()}-rlvr"
        assert (left.exists(), own.is_dir()) == (False, True)
    finally:
        publisher.close()
    assert not own.exists()
