"""Which folders and tensors fit an engine."""

import json

import pytest

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

from posttrain.errors import InputError, WeightsDiffer  # noqa: E402
from posttrain.weight_sync.model_folder import (  # noqa: E402
    folder_shapes,
    read_model_folder,
    require_same_architecture,
    require_same_tensors,
)

EXPECTED = {"embed": (5, 3), "norm": (3,)}


def test_one_file_and_several(tmp_path):
    safetensors.save_file({"embed": torch.ones(5, 3)}, tmp_path / "model.safetensors")
    assert folder_shapes(tmp_path) == {"embed": (5, 3)}
    safetensors.save_file({"norm": torch.zeros(3)}, tmp_path / "b.safetensors")
    index = {"weight_map": {"embed": "model.safetensors", "norm": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert folder_shapes(tmp_path) == EXPECTED
    assert {name: tuple(t.shape) for name, t in read_model_folder(tmp_path).items()} == EXPECTED


def test_a_folder_without_weights(tmp_path):
    with pytest.raises(InputError, match=r"no \.safetensors file"):
        folder_shapes(tmp_path)


def test_fitting_tensors_pass():
    require_same_tensors(EXPECTED, EXPECTED, tied=False, place="p")
    head = {"lm_head.weight": (5, 3)}
    require_same_tensors(EXPECTED, EXPECTED | head, tied=True, place="p")
    require_same_tensors(EXPECTED | head, EXPECTED, tied=True, place="p")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"embed": (5, 3)}, "1 missing, first norm"),
        (EXPECTED | {"lm_head.weight": (5, 3)}, "1 unknown, first lm_head.weight"),
        (EXPECTED | {"embed": (6, 3)}, "1 reshaped, first embed"),
        ({"x": (1,), "y": (1,)}, "2 missing, first embed; 2 unknown, first x"),
    ],
)
def test_others_are_refused(given, message):
    with pytest.raises(WeightsDiffer, match=message):
        require_same_tensors(EXPECTED, given, tied=False, place="p")


def test_architecture(tmp_path):
    for name, config in {
        "a": {"hidden_size": 64, "dtype": "float32", "_name_or_path": "x"},
        "b": {"hidden_size": 64, "dtype": "bfloat16"},
        "c": {"hidden_size": 96, "rope_theta": 1.0},
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    require_same_architecture(tmp_path / "a", tmp_path / "b")
    with pytest.raises(InputError, match=r"hidden_size 64 / 96, rope_theta None / 1\.0"):
        require_same_architecture(tmp_path / "a", tmp_path / "c")
    with pytest.raises(InputError, match="no model folder"):
        require_same_architecture(tmp_path / "a", tmp_path / "nowhere")
