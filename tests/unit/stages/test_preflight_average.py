"""Models of different kinds are refused before the first stage starts."""

import json

import torch
from safetensors.torch import load_file, save_file

from posttrain.model.micro import build_micro
from posttrain.stages.preflight import Origin, PreflightRequest, inspect

MICRO = Origin(None, "micro", None)


def looked_at(*averaged):
    request = PreflightRequest("merged", "average", averaged=averaged, place="stages.merged")
    return [problem.render() for problem in inspect([request])]


def changed_micro(folder, change):
    """The folder of a micro model of which `change(config, state)` altered something."""
    build_micro(folder, 1)
    config = json.loads((folder / "config.json").read_text())
    state = load_file(folder / "model.safetensors")
    change(config, state)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return Origin(str(folder), None, None)


def test_models_of_one_family(tmp_path):
    same = changed_micro(tmp_path / "same", lambda config, state: None)
    assert looked_at(("rlvr", MICRO), ("code", same)) == []


def test_added_tokens_are_named(tmp_path):
    def add(config, state):
        name = "model.embed_tokens.weight"
        state[name] = torch.cat([state[name], state[name][:3]])

    [problem] = looked_at(("rlvr", MICRO), ("code", changed_micro(tmp_path / "code", add)))
    assert problem.startswith("error[shapes-differ] stages.merged: `model.embed_tokens.weight` is ")
    assert "in `code`" in problem and "in `rlvr`" in problem
    assert problem.endswith("\n  help: 3 added tokens differ: average models of one family")


def test_other_architectures_and_quantized_weights(tmp_path):
    def turn(config, state):
        config["model_type"] = "mamba"

    def pack(config, state):
        config["quantization_config"] = {"bits": 4}

    of_mamba = changed_micro(tmp_path / "mamba", turn)
    packed = changed_micro(tmp_path / "packed", pack)
    found = looked_at(("rlvr", MICRO), ("state", of_mamba), ("small", packed))
    assert [problem.partition("\n")[0] for problem in found] == [
        "error[quantized-weights] stages.merged: `small` has quantized weights, and those cannot "
        "be averaged",
        "error[other-architecture] stages.merged: model_type is mamba in `state`, qwen3 in `rlvr`",
    ]
