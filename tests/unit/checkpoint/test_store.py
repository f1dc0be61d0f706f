"""Checkpoints: whatever a crash leaves behind, the pointer names a whole one."""

import json

import pytest
import torch

from posttrain.checkpoint.folders import CommittedFolders
from posttrain.checkpoint.store import CheckpointStore
from posttrain.errors import InputError

STATE = {"coordinator": {"next_draw": 7}}


def model_of(value):
    return {"weight": torch.full((2, 3), value), "bias": torch.tensor([value, -0.0])}


def save(store, step):
    return store.save(step, model_of(float(step)), {"lr": 0.5, "step": step}, STATE)


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_before_the_first_there_is_none(tmp_path):
    assert CheckpointStore(tmp_path / "checkpoints").latest() is None


def test_round_trip_is_bit_equal(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints")
    generator = torch.Generator().manual_seed(0)
    model = {
        "a": torch.randn(5, 7, generator=generator),
        "b": torch.randn(3, generator=generator).to(torch.bfloat16),
        "transposed": torch.randn(4, 2, generator=generator).T,
    }
    optimiser = {"random": torch.get_rng_state(), "exp_avg": {0: model["a"] * 3}, "tokens_seen": 41}
    path = store.save(40, model, optimiser, STATE)
    assert path == tmp_path / "checkpoints" / "step-000040"
    assert names(path) == ["model.safetensors", "optimiser.pt", "state.json"]
    found = store.latest()
    assert found is not None
    assert found.step == 40
    assert found.state == {"coordinator": {"next_draw": 7}}
    loaded = found.load_model()
    assert sorted(loaded) == ["a", "b", "transposed"]
    for name, tensor in model.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)
    again = found.load_optimiser()
    assert torch.equal(again["random"], optimiser["random"])
    assert torch.equal(again["exp_avg"][0], model["a"] * 3)
    assert again["tokens_seen"] == 41


def test_tied_tensors_are_kept_once_under_their_first_name(tmp_path):
    store = CheckpointStore(tmp_path)
    shared = torch.arange(6.0).reshape(2, 3)
    store.save(1, {"embed": shared, "head": shared, "norm": torch.ones(2)}, {}, {})
    loaded = store.latest().load_model()
    assert sorted(loaded) == ["embed", "norm"]
    assert loaded["embed"].tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]


def test_the_pointer_names_the_checkpoint_and_the_size_of_every_file(tmp_path):
    path = save(CheckpointStore(tmp_path), 3)
    pointer = json.loads((tmp_path / "latest.json").read_text())
    assert pointer["name"] == "step-000003"
    assert pointer["sizes"] == {file.name: file.stat().st_size for file in path.iterdir()}
    assert sorted(pointer["sizes"]) == ["model.safetensors", "optimiser.pt", "state.json"]


def test_two_are_kept(tmp_path):
    store = CheckpointStore(tmp_path)
    for step in (10, 20, 30):
        save(store, step)
    assert names(tmp_path) == ["latest.json", "step-000020", "step-000030"]
    assert store.latest().step == 30


@pytest.mark.parametrize(
    ("keep", "left"), [(1, ["step-000030"]), (3, ["step-000010", "step-000020", "step-000030"])]
)
def test_as_many_are_kept_as_asked_for(tmp_path, keep, left):
    store = CheckpointStore(tmp_path, keep=keep)
    for step in (10, 20, 30):
        save(store, step)
    assert names(tmp_path) == ["latest.json", *left]


def test_a_torn_checkpoint_that_was_never_committed_is_ignored(tmp_path):
    """A kill while writing leaves a hidden folder; a kill before the commit a later one."""
    store = CheckpointStore(tmp_path)
    save(store, 10)
    for orphan in (".step-000020.77", "step-000020"):
        (tmp_path / orphan).mkdir()
        (tmp_path / orphan / "model.safetensors").write_bytes(b"half")
    assert CheckpointStore(tmp_path).latest().step == 10
    assert CheckpointStore(tmp_path).latest().load_model()["bias"].tolist() == [10.0, 0.0]


def test_the_next_save_clears_what_killed_writers_left(tmp_path):
    store = CheckpointStore(tmp_path)
    save(store, 10)
    (tmp_path / ".step-000020.77").mkdir()
    (tmp_path / "step-000020").mkdir()
    save(store, 20)
    assert names(tmp_path) == ["latest.json", "step-000010", "step-000020"]
    assert store.latest().load_model()["weight"].tolist() == [[20.0] * 3] * 2


def test_orphans_of_later_steps_never_push_the_committed_one_out(tmp_path):
    store = CheckpointStore(tmp_path)
    save(store, 10)
    for orphan in ("step-000040", "step-000050"):
        (tmp_path / orphan).mkdir()
    save(store, 20)
    assert store.latest().step == 20
    assert names(tmp_path) == ["latest.json", "step-000020", "step-000040", "step-000050"]


@pytest.mark.parametrize("moment", ["model", "optimiser", "state", "commit"])
def test_a_failure_in_the_middle_leaves_the_old_one(tmp_path, monkeypatch, moment):
    store = CheckpointStore(tmp_path)
    save(store, 10)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    state = dict(STATE)
    if moment == "model":
        monkeypatch.setattr("safetensors.torch.save_file", full)
    elif moment == "optimiser":
        monkeypatch.setattr("torch.save", full)
    elif moment == "state":
        state["unwritable"] = {1, 2}
    else:
        monkeypatch.setattr(CommittedFolders, "_point_to", full)
    with pytest.raises((OSError, TypeError)):
        store.save(20, model_of(20.0), {}, state)
    monkeypatch.undo()
    found = CheckpointStore(tmp_path).latest()
    assert found.step == 10
    assert found.load_model()["bias"].tolist() == [10.0, 0.0]
    assert found.load_optimiser() == {"lr": 0.5, "step": 10}
    if moment != "commit":
        assert names(tmp_path) == ["latest.json", "step-000010"]
    save(store, 20)
    assert store.latest().step == 20


@pytest.mark.parametrize("damage", ["removed", "cut"])
def test_a_committed_file_that_is_gone_or_cut_is_said(tmp_path, damage):
    store = CheckpointStore(tmp_path / "checkpoints")
    file = save(store, 10) / "model.safetensors"
    if damage == "removed":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError) as caught:
        store.latest()
    problem = caught.value.problems[0]
    assert problem.code == "checkpoint-damaged"
    assert problem.message == "model.safetensors of the last checkpoint is missing or cut short"
    assert problem.path == str(tmp_path / "checkpoints" / "step-000010")
    assert problem.help == "remove the folder of the stage, to train it from its start"


def test_a_whole_folder_that_is_gone_names_every_file(tmp_path):
    import shutil

    store = CheckpointStore(tmp_path)
    shutil.rmtree(save(store, 10))
    with pytest.raises(InputError) as caught:
        store.latest()
    message = caught.value.message.removesuffix(" of the last checkpoint is missing or cut short")
    assert sorted(message.split(", ")) == ["model.safetensors", "optimiser.pt", "state.json"]
