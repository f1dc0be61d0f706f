"""Tensors read one by one, and shards written one tensor after another."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from posttrain.errors import InputError
from posttrain.model.stored_tensors import is_whole, layer_of, stored_model, write_shard

STATE = {
    "model.embed_tokens.weight": torch.arange(12.0).view(4, 3),
    "model.layers.0.up.weight": torch.arange(6.0).view(2, 3).bfloat16(),
    "model.layers.1.up.weight": torch.arange(6.0, 12.0).view(2, 3).half(),
    "model.positions": torch.arange(5),
    "model.scale": torch.tensor(0.5, dtype=torch.float64),
    "model.empty": torch.zeros(0, 3),
}


def write_folder(folder, state=STATE, **config):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.3.mlp.up_proj.weight", 3),
        ("transformer.h.12.attn.bias", 12),
        ("model.layers.7.mlp.experts.31.w1.weight", 7),
        ("model.embed_tokens.weight", None),
        ("lm_head.weight", None),
        ("model.norm2.weight", None),
    ],
)
def test_the_layer_of_a_name(name, layer):
    assert layer_of(name) == layer


def test_a_folder_is_looked_into(tmp_path):
    stored = stored_model(write_folder(tmp_path), "sft")
    assert stored.label == "sft" and stored.num_layers == 2
    assert stored.tensors.keys() == STATE.keys()
    one = stored.tensors["model.layers.0.up.weight"]
    assert (one.number_format, one.shape, one.num_bytes) == ("BF16", (2, 3), 12)
    assert one.is_floating and not stored.tensors["model.positions"].is_floating
    for name, tensor in STATE.items():
        assert torch.equal(stored.read(name), tensor)


def test_a_written_shard_is_one_that_the_library_reads(tmp_path):
    stored = stored_model(write_folder(tmp_path))
    write_shard(tmp_path / "out.safetensors", stored.tensors, stored.tensors, stored.read)
    written = load_file(tmp_path / "out.safetensors")
    assert all(torch.equal(written[name], tensor) for name, tensor in STATE.items())
    assert is_whole(tmp_path / "out.safetensors", STATE, stored.tensors)


def test_a_shard_appears_when_it_is_whole(tmp_path):
    stored = stored_model(write_folder(tmp_path))

    def produce(name):
        if name == "model.positions":
            raise KeyboardInterrupt
        return stored.read(name)

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path / "out.safetensors", stored.tensors, stored.tensors, produce)
    assert not (tmp_path / "out.safetensors").exists()
    assert not is_whole(tmp_path / "out.safetensors", STATE, stored.tensors)


def test_a_tensor_of_another_size_is_not_written(tmp_path):
    stored = stored_model(write_folder(tmp_path))
    with pytest.raises(ValueError, match=r"`model.scale` came out with 4 bytes, not 8"):
        write_shard(
            tmp_path / "out.safetensors",
            ["model.scale"],
            stored.tensors,
            lambda name: stored.read(name).float(),
        )


def test_a_tied_output_head_is_left_out(tmp_path):
    state = STATE | {"lm_head.weight": STATE["model.embed_tokens.weight"].clone()}
    assert "lm_head.weight" in stored_model(write_folder(tmp_path, state)).tensors
    tied = stored_model(write_folder(tmp_path, state, tie_word_embeddings=True))
    assert tied.tensors.keys() == STATE.keys()


def test_only_the_files_of_the_index_count(tmp_path):
    write_folder(tmp_path)
    save_file({"adapter": torch.zeros(2)}, tmp_path / "adapter_model.safetensors")
    assert stored_model(tmp_path).tensors.keys() == STATE.keys()
    index = {"weight_map": {"adapter": "adapter_model.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert stored_model(tmp_path).tensors.keys() == {"adapter"}


@pytest.mark.parametrize("damage", ["cut", "longer", "text", "gone"])
def test_damaged_files_are_named(tmp_path, damage):
    file = write_folder(tmp_path) / "model.safetensors"
    whole = file.read_bytes()
    index = {"weight_map": dict.fromkeys(STATE, file.name)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "other.safetensors").write_bytes(whole)
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes({"cut": whole[:-1], "longer": whole + b"0", "text": b"weights"}[damage])
    with pytest.raises(InputError) as caught:
        stored_model(tmp_path)
    problem = caught.value.problems[0]
    assert (problem.code, problem.file) == ("unreadable-file", str(file))
