"""Checkpoint folders: named only when whole, two kept, leftovers removed."""

from posttrain.train.sft_checkpoints import FolderCheckpoints


def write(store, step, text="x"):
    folder = store.begin(step) / f"checkpoint-{step}"
    folder.mkdir()
    (folder / "a.txt").write_text(text)
    return store.commit(step, folder)


def test_latest_is_the_last_committed(tmp_path):
    store = FolderCheckpoints(tmp_path)
    assert store.latest() is None
    write(store, 5)
    write(store, 10)
    assert store.latest() == tmp_path / "step-000010"
    store.begin(15)  # begun and never committed: a crash
    assert FolderCheckpoints(tmp_path).latest() == tmp_path / "step-000010"


def test_two_are_kept_and_leftovers_removed(tmp_path):
    store = FolderCheckpoints(tmp_path)
    store.begin(1)
    for step in (5, 10, 15):
        write(store, step)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["latest.json", "step-000010", "step-000015"]


def test_cut_file_makes_it_unusable(tmp_path):
    store = FolderCheckpoints(tmp_path)
    folder = write(store, 5, "whole")
    (folder / "a.txt").write_text("who")
    assert store.latest() is None


def test_same_step_again_replaces(tmp_path):
    store = FolderCheckpoints(tmp_path)
    write(store, 5, "old")
    write(store, 5, "new")
    assert (store.latest() / "a.txt").read_text() == "new"
