"""Files and folders that are there whole or not at all, after a power cut too."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from posttrain.files import is_remote, whole_directory, whole_file, write_json, write_text


@pytest.fixture
def diary(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what is brought to disk, and of what is put in place, in their order."""
    told: list[str] = []
    fsync, replace = os.fsync, os.replace

    def flushed(descriptor: int) -> None:
        told.append("flush " + Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def replaced(source: Path, target: Path) -> None:
        told.append("place " + Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", replaced)
    return told


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_on_disk_before_it_is_in_place_and_then_its_place(
    tmp_path: Path, diary: list[str]
) -> None:
    write_json(tmp_path / "a.json", {"text": "größer"})
    partial = f".a.json.partial-{os.getpid()}"
    assert diary == [f"flush {partial}", "place a.json", f"flush {tmp_path.name}"]
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n "text": "größer"\n}\n'


def test_a_file_that_was_never_finished_leaves_the_one_before(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "before")
    with pytest.raises(OSError, match="no room"), whole_file(tmp_path / "a") as partial:
        partial.write_text("half")
        raise OSError("no room")
    assert (tmp_path / "a").read_text() == "before"
    assert names_in(tmp_path) == ["a"]


def test_all_of_a_folder_is_on_disk_before_it_is_in_place(tmp_path: Path, diary: list[str]) -> None:
    outside = tmp_path / "outside"
    outside.write_text("of somebody else")
    with whole_directory(tmp_path / "model") as partial:
        (partial / "deep").mkdir()
        (partial / "deep" / "weights").write_text("w")
        (partial / "config").write_text("c")
        (partial / "linked").symlink_to(outside)
    place = diary.index("place model")
    hidden = f".model.partial-{os.getpid()}"
    assert sorted(diary[:place]) == sorted(
        ["flush deep", "flush weights", "flush config", f"flush {hidden}"]
    )
    assert diary[place + 1 :] == [f"flush {tmp_path.name}"]
    assert names_in(tmp_path / "model") == ["config", "deep", "linked"]


def test_a_folder_takes_the_place_of_another(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with whole_directory(tmp_path / "model") as partial:
            (partial / text).write_text(text)
    assert names_in(tmp_path / "model") == ["two"]
    assert names_in(tmp_path) == ["model"]
    with pytest.raises(OSError, match="no room"), whole_directory(tmp_path / "model"):
        raise OSError("no room")
    assert names_in(tmp_path / "model") == ["two"]
    assert names_in(tmp_path) == ["model"]


MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
server:/home /home nfs4 rw,vers=4.2 0 0
/dev/sdb1 /home/me/scratch\\040disk xfs rw 0 0
//nas/share /mnt/share cifs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "remote"),
    [
        ("/runs/mine", False),
        ("/home/me/runs", True),
        ("/home/me/scratch disk/runs", False),
        ("/homes/me", False),
        ("/mnt/share/runs/mine", True),
    ],
)
def test_which_file_systems_show_late_what_was_written(
    monkeypatch: pytest.MonkeyPatch, path: str, remote: bool
) -> None:
    read_text = Path.read_text

    def mounts(file: Path, **more: str) -> str:
        return MOUNTS if file == Path("/proc/self/mounts") else read_text(file, **more)

    monkeypatch.setattr(Path, "read_text", mounts)
    assert is_remote(Path(path)) is remote
