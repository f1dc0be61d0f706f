"""Looking through a run folder for what may go, and removing it: numbers, links, and stops in the
middle."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.checkpoint.folders import CommittedFolders
from posttrain.errors import InputError, NotRemoved
from posttrain.pipeline import removal
from posttrain.pipeline.removable import Removable
from posttrain.pipeline.removal import remove
from posttrain.pipeline.run_inventory import removable, tree_bytes
from posttrain.pipeline.store import RunFolder


def make(path: Path, num_bytes: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * num_bytes)
    return path


def stage(
    run: Path, name: str, identity: str, state: str = "done", ended: float | None = 1.0
) -> Path:
    """A stage's folder with a model of 1000 bytes."""
    folder = run / name / identity
    make(folder / "model" / "model.safetensors", 900)
    make(folder / "model" / "config.json", 100)
    RunFolder(run).stage(name, identity).write_manifest(
        {"stage": name, "identity": identity, "state": state, "ended": ended}
    )
    return folder


def commit(checkpoints: Path, step: int, num_bytes: int) -> Path:
    store = CommittedFolders(checkpoints)
    partial = store.begin(step)
    make(partial / "model.safetensors", num_bytes)
    return store.commit(step, partial)


def use(run: Path, **identities: str) -> None:
    run.mkdir(parents=True, exist_ok=True)
    stages = [{"name": name, "identity": identity} for name, identity in identities.items()]
    (run / "run.json").write_text(json.dumps({"name": run.name, "stages": stages}))


def told(run: Path) -> list[tuple[str, str, int]]:
    return [
        (each.kind, str(each.path.relative_to(run.resolve())), each.bytes)
        for each in removable(RunFolder(run))
    ]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "runs" / "mine"
    use(path, base="b1", sft="s1")
    stage(path, "base", "b1")
    stage(path, "sft", "s1")
    return path


def test_a_clean_run_has_nothing_to_remove(run: Path) -> None:
    (run / "best").symlink_to("sft/s1/model")
    assert told(run) == []


def test_checkpoints_of_a_done_stage_go_whole(run: Path) -> None:
    commit(run / "sft" / "s1" / "checkpoints", 20, 5000)
    make(run / "sft" / "s1" / "rollouts" / "step-1.parquet", 7000)
    pointer = (run / "sft" / "s1" / "checkpoints" / "latest.json").stat().st_size
    assert told(run) == [("checkpoints", "sft/s1/checkpoints", 5000 + pointer)]
    assert remove(run, removable(RunFolder(run))) == 5000 + pointer
    assert sorted(each.name for each in (run / "sft" / "s1").iterdir()) == [
        "manifest.json", "model", "rollouts",
    ]  # fmt: skip


def test_of_an_open_stage_the_newest_whole_checkpoint_stays(run: Path) -> None:
    folder = stage(run, "sft", "s1", "stopped") / "checkpoints"
    commit(folder, 20, 2000)
    latest = commit(folder, 40, 4000)
    make(CommittedFolders(folder).begin(60) / "half", 300)
    assert told(run) == [
        ("checkpoints", "sft/s1/checkpoints/step-000020", 2000),
        ("leftovers", "sft/s1/checkpoints/.step-000060.partial", 300),
    ]
    assert remove(run, removable(RunFolder(run))) == 2300
    assert CommittedFolders(folder).latest() == latest


def test_nothing_goes_beside_a_damaged_checkpoint(run: Path) -> None:
    folder = stage(run, "sft", "s1", "failed") / "checkpoints"
    commit(folder, 20, 2000)
    (commit(folder, 40, 4000) / "model.safetensors").write_bytes(b"cut")
    assert told(run) == []
    (folder / "latest.json").write_text('{"name": "st')
    assert told(run) == []


def test_members_of_an_ensemble_have_checkpoints_of_their_own(run: Path) -> None:
    folder = stage(run, "sft", "s1", "stopped") / "checkpoints"
    for member in (0, 1):
        commit(folder / f"member-{member}", 10, 100)
        commit(folder / f"member-{member}", 20, 100)
    assert [path for _, path, _ in told(run)] == [
        "sft/s1/checkpoints/member-0/step-000010",
        "sft/s1/checkpoints/member-1/step-000010",
    ]


def test_superseded_stages_go_whole_and_say_what_is_used_now(run: Path) -> None:
    old = stage(run, "sft", "s0")
    commit(old / "checkpoints", 20, 5000)
    stage(run, "dpo", "d0")
    found = {each.path.name: each for each in removable(RunFolder(run))}
    assert {name: (each.kind, each.why) for name, each in found.items()} == {
        "s0": ("stages", "s1 is used now"),
        "d0": ("stages", "no stage of this name any more"),
    }
    assert found["s0"].bytes == tree_bytes(old) > 6000
    remove(run, found.values())
    assert sorted(each.name for each in run.iterdir()) == ["base", "run.json", "sft"]
    assert [each.name for each in (run / "sft").iterdir()] == ["s1"]


def test_what_best_names_stays(run: Path) -> None:
    stage(run, "sft", "s0")
    (run / "best").symlink_to("sft/s0/model")
    assert told(run) == []


def test_what_another_run_starts_from_stays(run: Path) -> None:
    kept, linked = stage(run, "sft", "s0"), stage(run, "sft", "s9")
    stage(run, "sft", "s8")
    other = run.parent / "other"
    use(other, base="x")
    (other / "pipeline.yaml").write_text(f"stages:\n  base:\n    path: {kept.resolve()}/model\n")
    link = other / "base" / "x" / "model" / "model.safetensors"
    link.parent.mkdir(parents=True)
    link.symlink_to((linked / "model" / "model.safetensors").resolve())
    assert [path for _, path, _ in told(run)] == ["sft/s8"]


def test_a_path_that_yaml_broke_in_two_is_found(tmp_path: Path) -> None:
    run = tmp_path / "my long runs" / "mine"
    use(run, sft="s1")
    stage(run, "sft", "s1")
    kept = stage(run, "sft", "s0")
    head, tail = str(kept.resolve()).split(" runs", 1)
    (run / "pipeline.yaml").write_text(f"path: {head}\n  runs{tail}/model\n")
    assert told(run) == []


def test_leftovers_of_killed_processes(run: Path) -> None:
    (run / ".best").symlink_to("sft/s1/model")
    make(run / ".run.json.partial-4121", 10)
    make(run / ".removing-0a1b" / "model", 20)
    make(run / "sft" / "s1" / ".model.partial-7" / "a", 30)
    make(run / "sft" / "s1" / "measurements" / ".abilities.json.partial-7", 40)
    make(run / "sft" / "s1" / "journal" / "e.journal", 50)
    make(run / "sft" / "s1" / "model" / ".odd.partial", 60)  # a model is left as it is
    make(run / "wandb" / ".x.partial", 70)
    assert told(run) == [
        ("leftovers", ".best", 0),
        ("leftovers", ".removing-0a1b", 20),
        ("leftovers", ".run.json.partial-4121", 10),
        ("leftovers", "sft/s1/journal", 50),
        ("leftovers", "sft/s1/.model.partial-7", 30),
        ("leftovers", "sft/s1/measurements/.abilities.json.partial-7", 40),
    ]
    assert remove(run, removable(RunFolder(run))) == 150
    assert (run / "sft" / "s1" / "model" / "model.safetensors").exists()
    assert told(run) == []


def test_the_journal_and_the_merge_of_an_open_stage_stay(run: Path) -> None:
    folder = stage(run, "sft", "s1", "stopped")
    make(folder / "journal" / "e.journal", 50)
    make(folder / ".model.merging" / "merge.json", 50)
    assert told(run) == []


def test_links_are_not_followed(run: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    stage(outside, "sft", "far")
    commit(outside / "checkpoints", 20, 5000)
    (run / "sft" / "far").symlink_to(outside / "sft" / "far")
    (run / "dpo").symlink_to(outside / "sft")
    (run / "sft" / "s1" / "checkpoints").symlink_to(outside / "checkpoints")
    (run / "sft" / "s1" / ".model.partial-7").symlink_to(outside)
    before = sorted(str(path) for path in outside.rglob("*"))
    assert told(run) == [("leftovers", "sft/s1/.model.partial-7", 0)]
    remove(run, removable(RunFolder(run)))
    assert sorted(str(path) for path in outside.rglob("*")) == before
    assert not (run / "sft" / "s1" / ".model.partial-7").is_symlink()


def test_links_inside_what_goes_are_removed_not_followed(run: Path, tmp_path: Path) -> None:
    outside = make(tmp_path / "outside" / "weights", 500)
    old = stage(run, "sft", "s0")
    (old / "model" / "linked").symlink_to(outside)
    (old / "folder").symlink_to(outside.parent)
    os.link(outside, old / "second-name")
    without = sum(each.stat().st_size for each in old.rglob("*") if each.name in (
        "manifest.json", "model.safetensors", "config.json"))  # fmt: skip
    assert remove(run, removable(RunFolder(run))) == without
    assert outside.read_bytes() == b"x" * 500
    assert not old.exists()


@pytest.mark.parametrize("where", ["elsewhere", "behind-a-link"])
def test_nothing_outside_of_the_run_is_removed(run: Path, tmp_path: Path, where: str) -> None:
    make(tmp_path / "elsewhere" / "a", 5)
    (run / "behind-a-link").symlink_to(tmp_path / "elsewhere")
    path = {"elsewhere": tmp_path / "elsewhere", "behind-a-link": run / "behind-a-link" / "a"}
    with pytest.raises(NotRemoved) as caught:
        remove(run, [Removable("stages", path[where], 5, "")])
    assert "0 B were freed" in caught.value.message
    assert (tmp_path / "elsewhere" / "a").exists()


def test_what_cannot_be_removed_is_said_and_the_rest_goes(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage(run, "sft", "s0")
    stage(run, "dpo", "d0")
    found = removable(RunFolder(run))
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name == "d0":
            raise OSError(16, "Device or resource busy")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(NotRemoved) as caught:
        remove(run, found)
    assert caught.value.message.startswith(f"{run.resolve()}/dpo/d0: Device or resource busy; ")
    assert caught.value.exit_code == 1
    assert not (run / "sft" / "s0").exists()
    assert (run / "dpo" / "d0" / "manifest.json").exists()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"stages": []}', '{"stages": [{"name": "a"}]}', '{"stages": 3}']
)
def test_a_run_json_that_names_no_stages_lets_nothing_go(run: Path, text: str) -> None:
    (run / "run.json").write_text(text)
    with pytest.raises(InputError) as caught:
        removable(RunFolder(run))
    assert caught.value.problems[0].code == "run-unreadable"


def test_folders_that_are_no_stages_are_left_alone(run: Path) -> None:
    make(run / "notes" / "mine" / "todo.txt", 5)
    make(run / "sft" / "unfinished" / "config.yaml", 5)
    make(run / "sft" / "copied" / "manifest.json", 0).write_text(
        json.dumps({"identity": "s0", "state": "done"})
    )
    assert told(run) == []


NAMES, IDENTITIES = ("base", "sft", "rlvr"), ("i0", "i1", "i2")
FOLDERS = st.dictionaries(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(IDENTITIES)),
    st.fixed_dictionaries(
        {
            "state": st.sampled_from(["done", "stopped", "running"]),
            "ended": st.sampled_from([None, 1.0, 2.0]),
            "steps": st.lists(st.integers(1, 9), unique=True, max_size=3).map(sorted),
            "leftover": st.booleans(),
        }
    ),
    min_size=1,
)


def build(run: Path, folders: dict[Any, Any], used: dict[str, str], best: Any) -> None:
    use(run, **used)
    for (name, identity), each in folders.items():
        folder = stage(run, name, identity, each["state"], each["ended"])
        for step in each["steps"]:
            commit(folder / "checkpoints", step, 50)
        if each["leftover"]:
            make(folder / ".model.partial-9" / "model.safetensors", 11)
    if best in folders:
        (run / "best").symlink_to(Path(*best) / "model")


def whole(run: Path, used: dict[str, str]) -> dict[str, Any]:
    """What people and programs see of a run: this must not change."""
    folder = RunFolder(run)
    seen: dict[str, Any] = {"run": folder.read(), "best": (run / "best" / "config.json").exists()}
    for name, identity in used.items():
        own = folder.stage(name, identity)
        latest = CommittedFolders(own.path / "checkpoints").latest()
        newest = folder.newest_done(name)
        stand_in = newest if newest and not own.is_done else None
        seen[name] = {
            "manifest": own.manifest,
            "goes on from": latest.name if latest and not own.is_done else None,
            "stand-in": stand_in and stand_in.identity,
            "model": sorted(os.listdir(own.path / "model")) if own.manifest else None,
        }
    return seen


def assert_done_is_whole(run: Path) -> None:
    """Whatever says that it is done has all files of its model."""
    for manifest in run.glob("[a-z]*/*/manifest.json"):
        assert sorted(os.listdir(manifest.parent / "model")) == ["config.json", "model.safetensors"]


class Killed(BaseException):
    """As Ctrl-C: passes every `except OSError`."""


@settings(max_examples=40)
@given(
    FOLDERS,
    st.dictionaries(st.sampled_from(NAMES), st.sampled_from(IDENTITIES), min_size=1),
    st.tuples(st.sampled_from(NAMES), st.sampled_from(IDENTITIES)),
    st.sets(st.sampled_from(["checkpoints", "stages", "leftovers"])),
    st.integers(0, 30),
)
def test_a_stop_at_any_moment_leaves_a_whole_run(
    folders: dict[Any, Any], used: dict[str, str], best: Any, kinds: set[str], dies_at: int
) -> None:
    """Killed at the n-th removal of a file or folder, then run again to the end."""
    with tempfile.TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)  # no power fails here
        run = Path(scratch) / "runs" / "mine"
        build(run, folders, used, best)
        before, size_before = whole(run, used), tree_bytes(run)
        left = dies_at

        def dying_rmtree(path: Any, *args: Any, **kwargs: Any) -> None:
            nonlocal left
            for inside, names, files in os.walk(path, topdown=False):
                for name in (*files, *names):
                    if left == 0:
                        raise Killed
                    left -= 1
                    each = Path(inside) / name
                    each.rmdir() if each.is_dir() else each.unlink()
            os.rmdir(path)

        patch.setattr(removal.shutil, "rmtree", dying_rmtree)
        chosen = [each for each in removable(RunFolder(run)) if each.kind in kinds]
        promised, died, freed = sum(each.bytes for each in chosen), False, 0
        try:
            freed = remove(run, chosen)
        except Killed:
            died = True
        assert whole(run, used) == before
        assert_done_is_whole(run)
        patch.undo()
        if not died:
            assert freed == promised == size_before - tree_bytes(run)
        chosen = [each for each in removable(RunFolder(run)) if each.kind in {*kinds, "leftovers"}]
        remove(run, chosen)
        assert whole(run, used) == before
        assert [each.name for each in run.iterdir() if each.name.startswith(".")] == []
        kinds_left = {each.kind for each in removable(RunFolder(run))}
        assert kinds_left.isdisjoint({*kinds, "leftovers"})
        shutil.rmtree(run.parent)
