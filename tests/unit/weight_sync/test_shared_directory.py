"""Shared memory is given back, also after a killed owner."""

import fcntl
import os
import subprocess
import sys

import pytest

from posttrain.weight_sync.shared_directory import SharedDirectory, remove_orphans

OWNER = """
import os, sys, time
from posttrain.weight_sync.shared_directory import SharedDirectory
with SharedDirectory("run", sys.argv[1]) as folder:
    print(folder.path, flush=True)
    time.sleep(60)
"""


def test_it_goes_with_its_block(tmp_path):
    with SharedDirectory("my run/1", tmp_path) as folder:
        assert folder.path == tmp_path / f"posttrain-{os.getpid()}-my_run_1"
        (folder.path / "0-1.weights").write_bytes(b"x")
    assert os.listdir(tmp_path) == []
    folder.close()


def test_two_of_one_name_are_refused(tmp_path):
    with SharedDirectory("run", tmp_path), pytest.raises(FileExistsError):
        SharedDirectory("run", tmp_path).__enter__()


def test_only_folders_of_the_dead_are_removed(tmp_path):
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        path = owner.stdout.readline().strip()
        assert os.path.basename(path) == f"posttrain-{owner.pid}-run"
        (tmp_path / "something-else").mkdir()
        assert remove_orphans(tmp_path) == []
    finally:
        owner.kill()
        owner.wait()
    assert [str(folder) for folder in remove_orphans(tmp_path)] == [path]
    assert os.listdir(tmp_path) == ["something-else"]


def test_a_folder_that_never_got_an_owner(tmp_path):
    (tmp_path / f"posttrain-{os.getpid()}-young").mkdir()  # its owner is about to lock it
    (tmp_path / "posttrain-999999999-dead").mkdir()
    assert [folder.name for folder in remove_orphans(tmp_path)] == ["posttrain-999999999-dead"]


def test_an_owner_whose_folder_is_removed_before_it_is_locked_makes_it_again(tmp_path, monkeypatch):
    lock, removed = fcntl.flock, []

    def lock_late(descriptor, operation):
        if operation == fcntl.LOCK_EX and not removed:  # the owner's, the first time
            removed.extend(remove_orphans(tmp_path))
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    with SharedDirectory("run", tmp_path) as folder:
        assert removed == [folder.path]
        assert os.listdir(folder.path) == ["owner"]
        assert remove_orphans(tmp_path) == []
