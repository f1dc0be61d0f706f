"""Folders: whether they may be written, and whether there is room."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from posttrain.doctor import storage
from posttrain.doctor.storage import (
    LONGEST_SOCKET,
    Space,
    read_space,
    read_storage,
    runs_finding,
    shared_finding,
    temporary_finding,
)

GB = 10**9
RUNS, TMP, SHM = Path("runs"), Path("/tmp"), Path("/dev/shm")


@pytest.mark.parametrize(
    ("free", "needed", "verdict"),
    [
        (5 * GB, None, "ok"),
        (5 * GB - 1, None, "watch"),
        (GB // 2, None, "watch"),
        (GB // 2 - 1, None, "act"),
        (8 * GB, 9 * GB, "act"),
        (9 * GB, 9 * GB, "ok"),
    ],
)
def test_the_disk_of_runs(free: int, needed: int | None, verdict: str) -> None:
    space = Space(RUNS, 100 * GB, free)
    found = runs_finding(space) if needed is None else runs_finding(space, needed, "gsm8k")
    assert found.verdict == verdict
    assert bool(found.help) is (verdict != "ok")


def test_the_disk_names_both_numbers() -> None:
    found = runs_finding(Space(RUNS, 100 * GB, 6 * GB), 9 * GB, "gsm8k")
    assert found.text == "6.0 GB free in runs, gsm8k needs about 9.0 GB"


def test_folders_that_cannot_be_written() -> None:
    assert runs_finding(Space(RUNS, writable=False)).verdict == "act"
    assert temporary_finding(Space(TMP, writable=False)).verdict == "act"
    assert shared_finding(Space(SHM, writable=False)).verdict == "act"
    assert shared_finding(Space(SHM, GB, GB, exists=False)).verdict == "act"  # as on a Mac


def test_a_path_that_rays_sockets_do_not_fit_under() -> None:
    room = 107 - len(LONGEST_SOCKET)
    assert room == 21
    fits = Path("/" + "t" * (room - 1))
    assert temporary_finding(Space(fits, 100, 50)).verdict == "ok"
    found = temporary_finding(Space(Path(f"{fits}t"), 100, 50))
    assert (found.verdict, found.help) == ("act", "export TMPDIR=/tmp")


def test_a_temporary_folder_that_is_nearly_full() -> None:
    assert temporary_finding(Space(TMP, 1000, 50)).verdict == "ok"
    found = temporary_finding(Space(TMP, 1000, 49))
    assert found.verdict == "watch"
    assert "over 95 % full" in found.text


@pytest.mark.parametrize(
    ("total", "free", "verdict", "help"),
    [
        (8 * GB, GB, "ok", ""),
        (8 * GB, GB - 1, "watch", "ls -l /dev/shm; posttrain clean --processes"),
        (64 * 10**6, 64 * 10**6, "watch", "docker run --shm-size=8g ..."),  # Docker's own
    ],
)
def test_shared_memory(total: int, free: int, verdict: str, help: str) -> None:
    found = shared_finding(Space(SHM, total, free))
    assert (found.verdict, found.help) == (verdict, help)


def test_a_folder_that_is_not_there_yet_has_the_room_of_the_one_above(tmp_path: Path) -> None:
    space = read_space(tmp_path / "not" / "yet")
    assert space.writable
    assert not space.exists
    assert space.total_bytes == os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize
    (tmp_path / "file").touch()
    assert not read_space(tmp_path / "file").writable


def test_a_file_system_that_may_only_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage.os, "access", lambda path, mode: False)  # EROFS, EACCES
    assert not read_space(tmp_path).writable


def test_no_folder_for_temporary_files_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(storage.tempfile, "gettempdir", none)
    runs, temporary, _ = read_storage(tmp_path)
    assert (runs.writable, temporary.writable) == (True, False)
