"""Processes of runs that are gone: found by the session they name, ended, and no others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from posttrain.cluster import leftovers
from posttrain.cluster.leftovers import (
    Leftover,
    Session,
    end_leftovers,
    is_gone,
    leftover_processes,
    session_named,
)
from posttrain.weight_sync.shared_directory import SharedDirectory, orphans

Start = Callable[[str, Path], subprocess.Popen[str]]
NOBODY = 2**22 + 1  # above the kernel's largest process number
SLEEP = "import sys; print('up', flush=True); sys.stdin.read()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEP


@pytest.mark.parametrize(
    ("texts", "folder", "pid"),
    [
        (["/tmp/posttrain-41-ray/tmp"], "/tmp/posttrain-41-ray", 41),
        (["", "--temp-dir=/var/x/posttrain-41-ray"], "/var/x/posttrain-41-ray", 41),
        (["/posttrain-41-ray"], "/posttrain-41-ray", 41),
        # a run inside a worker of another: the inner one decides
        (["/tmp/posttrain-1-ray/tmp/posttrain-2-ray/tmp"],
         "/tmp/posttrain-1-ray/tmp/posttrain-2-ray", 2),
        (["/tmp/posttrain-7-ray/tmp", "--temp-dir=/tmp/posttrain-8-ray"],
         "/tmp/posttrain-7-ray", 7),
    ],
)  # fmt: skip
def test_the_session_that_a_process_names(texts: list[str], folder: str, pid: int) -> None:
    assert session_named(texts) == Session(Path(folder), pid)


@pytest.mark.parametrize(
    "texts",
    [
        [],
        ["", "python", "-m", "posttrain.cli"],
        ["/tmp/posttrain-41-rayon"],
        ["/tmp/posttrain-ray"],
        ["/tmp/posttrain-4x-ray/tmp"],
        ["/tmp/my-posttrain-41-ray/tmp"],
        ["posttrain-41-ray"],
    ],
)
def test_other_processes_name_none(texts: list[str]) -> None:
    assert session_named(texts) is None


def test_a_session_is_gone_with_its_lock_or_with_folder_and_process(tmp_path: Path) -> None:
    there = Session(tmp_path, 5)
    removed = Session(tmp_path / "removed", 5)
    assert is_gone(there, [tmp_path], lambda pid: True)  # the number is another process's by now
    assert not is_gone(there, [], lambda pid: False)  # locked, in another container perhaps
    assert is_gone(removed, [], lambda pid: False)
    assert not is_gone(removed, [], lambda pid: True)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(program, session folder)`: a process that names a session, ready."""
    started: list[subprocess.Popen[str]] = []

    def begin(program: str, folder: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, "TMPDIR": str(folder / "tmp")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def test_only_those_whose_driver_is_gone_are_ended(tmp_path: Path, start: Start) -> None:
    with SharedDirectory("ray", tmp_path) as living:
        owned = start(SLEEP, living.path)
        orphan = start(SLEEP, tmp_path / f"posttrain-{NOBODY}-ray")
        stubborn = start(STUBBORN, tmp_path / f"posttrain-{NOBODY}-ray")
        started = {owned.pid, orphan.pid, stubborn.pid}
        found = [each for each in leftover_processes() if each.pid in started]
        assert sorted(each.pid for each in found) == sorted([orphan.pid, stubborn.pid])
        assert {each.driver_pid for each in found} == {NOBODY}
        wrong = Leftover(owned.pid, "python", NOBODY)  # as if its number had been another's
        assert end_leftovers([*found, wrong], grace_s=0.5) == []
        assert [each.poll() is None for each in (orphan, stubborn, owned)] == [False, False, True]


def test_folders_of_dead_owners_are_listed_and_stay(tmp_path: Path) -> None:
    with SharedDirectory("ray", tmp_path) as living:
        dead = tmp_path / f"posttrain-{NOBODY}-ray"
        dead.mkdir()
        unlocked = tmp_path / f"posttrain-{os.getpid()}-unlocked"
        unlocked.mkdir()
        (unlocked / "owner").touch()
        (tmp_path / "posttrain-notes").mkdir()
        assert orphans(tmp_path) == sorted([dead, unlocked])
        assert orphans(tmp_path) == sorted([dead, unlocked])  # looking removes nothing
        assert living.path.exists()
    assert orphans(tmp_path / "nowhere") == []


def test_shared_memory_and_the_temporary_folder_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, temporary = tmp_path / "shm", tmp_path / "tmp"
    left = [shared / f"posttrain-{NOBODY}-mine", temporary / f"posttrain-{NOBODY}-ray"]
    for folder in left:
        folder.mkdir(parents=True)
    monkeypatch.setattr(leftovers, "PARENT", shared)
    monkeypatch.setattr(leftovers.tempfile, "gettempdir", lambda: str(temporary))
    assert leftovers.leftover_folders() == left
    assert leftovers.remove_leftover_folders() == left
    assert leftovers.leftover_folders() == []
