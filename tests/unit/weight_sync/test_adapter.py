"""An adapter published in place of weights: what is accepted, and what it is merged into."""

import pytest
import torch
from safetensors.torch import save_file

from posttrain.errors import WeightsDiffer
from posttrain.weight_sync.adapter import (
    MergedWeights,
    adapter_tensors,
    base_checksum,
    holds_adapter,
    require_base,
    require_fitting,
)
from posttrain.weight_sync.checksum import checksum
from posttrain.weight_sync.device_checksum import device_checksum
from posttrain.weight_sync.flat_file import read_weights, write_weights

BASE = {"a.q.weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "norm.weight": torch.ones(2)}
SHAPES = {name: tuple(tensor.shape) for name, tensor in BASE.items()}
MATRICES = {
    "a.q.lora_A.weight": torch.tensor([[1.0, -1.0]]),
    "a.q.lora_B.weight": torch.tensor([[1.0], [10.0]]),
}


@pytest.fixture
def folder(tmp_path):
    save_file(BASE, tmp_path / "model.safetensors")
    return tmp_path


@pytest.fixture
def published(folder):
    return adapter_tensors(MATRICES, 2.0, base_checksum(folder))


def test_it_travels_like_weights_and_is_merged_on_the_other_side(folder, published, tmp_path):
    """[1 2; 3 4] + 2·[1; 10]·[1 -1] = [3 0; 23 -16]; what has no adapter stays."""
    received = read_weights(write_weights(published, tmp_path, version=3, attempt=0).location)
    assert holds_adapter(received) and not holds_adapter(BASE)
    merged = MergedWeights(folder, received, torch.float32)
    assert dict(merged).keys() == BASE.keys() and len(merged) == 2
    assert merged["a.q.weight"].tolist() == [[3.0, 0.0], [23.0, -16.0]]
    assert torch.equal(merged["norm.weight"], torch.ones(2))
    assert merged.get("b.q.weight") is None


def test_merged_is_rounded_once_to_the_engines_format(folder, published):
    merged = MergedWeights(folder, published, torch.bfloat16)
    assert merged["a.q.weight"].dtype == torch.bfloat16
    assert merged["norm.weight"].dtype == torch.float32  # as stored: the engine casts it


@pytest.mark.parametrize("digest", [checksum, device_checksum])
def test_the_checksum_covers_scaling_and_base(published, digest):
    other_scaling = adapter_tensors(MATRICES, 2.5, checksum(BASE))
    other_base = adapter_tensors(MATRICES, 2.0, checksum({}))
    assert digest(adapter_tensors(MATRICES, 2.0, checksum(BASE))) == digest(published)
    assert len({digest(each) for each in (published, other_scaling, other_base)}) == 3


def test_an_adapter_of_another_model_is_refused(folder, published, tmp_path):
    require_base("5", published, folder, "p")
    other = tmp_path / "other"
    other.mkdir()
    save_file(BASE | {"norm.weight": 2 * torch.ones(2)}, other / "model.safetensors")
    with pytest.raises(WeightsDiffer, match="engine 5 was sent an adapter for the model") as caught:
        require_base("5", published, other, "p")
    assert base_checksum(folder)[:8] in caught.value.message
    assert f"{base_checksum(other)[:8]} of {other}" in caught.value.message


def test_a_folder_whose_files_change_has_another_checksum(folder):
    before = base_checksum(folder)
    assert before == base_checksum(folder) == checksum(BASE)
    save_file(BASE | {"norm.weight": torch.zeros(2)}, folder / "model.safetensors")
    assert base_checksum(folder) != before


def test_what_fits_passes(published):
    shapes = {name: tuple(tensor.shape) for name, tensor in published.items()}
    require_fitting(SHAPES, shapes, tied=False, place="p")
    require_fitting(SHAPES, SHAPES, tied=False, place="p")  # whole weights, as ever
    with pytest.raises(WeightsDiffer, match=r"1 missing, first norm\.weight"):
        require_fitting(SHAPES, {"a.q.weight": (2, 2)}, tied=False, place="p")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"a.q.lora_B.weight": None}, r"a\.q\.lora_A\.weight has no counterpart"),
        ({"a.q.lora_A.weight": None}, r"a\.q\.lora_B\.weight has no counterpart"),
        ({"norm.weight": (2,)}, r"norm\.weight has no counterpart"),
        (
            {"a.k.lora_A.weight": (1, 2), "a.k.lora_B.weight": (2, 1)},
            r"the engine's model has no a\.k\.weight",
        ),
        (
            {"a.q.lora_A.weight": (1, 3)},
            r"a\.q\.weight is \(2, 2\), the adapter's \(2, 1\) times \(1, 3\)",
        ),
        (
            {"a.q.lora_B.weight": (2, 2)},
            r"a\.q\.weight is \(2, 2\), the adapter's \(2, 2\) times \(1, 2\)",
        ),
    ],
)
def test_others_are_refused(published, changes, message):
    given = {name: tuple(tensor.shape) for name, tensor in published.items()} | changes
    given = {name: shape for name, shape in given.items() if shape is not None}
    with pytest.raises(WeightsDiffer, match=message):
        require_fitting(SHAPES, given, tied=False, place="p")


def test_a_base_that_is_gone_is_named(tmp_path):
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "cleaned-away")
    with pytest.raises(WeightsDiffer, match="is not there any more"):
        base_checksum(tmp_path)
