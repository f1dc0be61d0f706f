"""Folders of checkpoints: named only when whole, two kept, leftovers removed."""

import pytest

from posttrain.checkpoint.folders import CommittedFolders
from posttrain.errors import InputError


def write(store, step, text="x"):
    folder = store.begin(step) / f"checkpoint-{step}"
    folder.mkdir()
    (folder / "a.txt").write_text(text)
    return store.commit(step, folder)


def test_latest_is_the_last_committed(tmp_path):
    store = CommittedFolders(tmp_path)
    assert store.latest() is None
    write(store, 5)
    write(store, 10)
    assert store.latest() == tmp_path / "step-000010"
    store.begin(15)  # begun and never committed: a crash
    assert CommittedFolders(tmp_path).latest() == tmp_path / "step-000010"


def test_two_are_kept_and_leftovers_removed(tmp_path):
    store = CommittedFolders(tmp_path)
    store.begin(1)
    for step in (5, 10, 15):
        write(store, step)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["latest.json", "step-000010", "step-000015"]


def test_a_file_that_was_cut_since_is_said(tmp_path):
    store = CommittedFolders(tmp_path)
    folder = write(store, 5, "whole")
    (folder / "a.txt").write_text("who")
    with pytest.raises(InputError, match=r"a\.txt of the last checkpoint is missing or cut short"):
        store.latest()


def test_files_deeper_down_count(tmp_path):
    store = CommittedFolders(tmp_path)
    partial = store.begin(5)
    (partial / "deep").mkdir()
    (partial / "deep" / "b.txt").write_text("b")
    folder = store.commit(5, partial)
    assert store.latest() == folder
    (folder / "deep" / "b.txt").unlink()
    with pytest.raises(InputError, match=r"deep/b\.txt of the last checkpoint"):
        store.latest()


def test_what_was_begun_can_be_abandoned(tmp_path):
    store = CommittedFolders(tmp_path)
    (store.begin(5) / "a.txt").write_text("a")
    store.abandon(5)
    store.abandon(6)  # never begun
    assert list(tmp_path.iterdir()) == []


def test_same_step_again_replaces(tmp_path):
    store = CommittedFolders(tmp_path)
    write(store, 5, "old")
    write(store, 5, "new")
    assert (store.latest() / "a.txt").read_text() == "new"
