"""Layers that compute with other weights than they were given are found."""

import pytest

torch = pytest.importorskip("torch")

from posttrain.weight_sync.held import matching_modules, stale_modules  # noqa: E402


class Packed(torch.nn.Module):
    """As vLLM on CPUs: the matrix lives in a closure, the parameter is empty or just a copy."""

    def __init__(self, matrix, keep):
        super().__init__()
        self.weight = torch.nn.Parameter(matrix.clone() if keep else torch.empty(0))
        self.pack(matrix)

    def pack(self, matrix):
        packed = matrix.clone()
        self.cpu_linear = lambda x, weight, bias: x @ packed.T


def build():
    torch.manual_seed(0)
    received = {
        "embed.weight": torch.randn(10, 8),
        "attn.q_proj.weight": torch.randn(8, 8),
        "attn.k_proj.weight": torch.randn(4, 8),
        "norm.weight": torch.randn(8),
    }
    model = torch.nn.Module()
    model.packed_modules_mapping = {"qk_proj": ["q_proj", "k_proj"]}
    model.attn = torch.nn.Module()
    fused = torch.cat([received["attn.q_proj.weight"], received["attn.k_proj.weight"]])
    model.attn.qk_proj = Packed(fused, keep=False)
    padded = torch.cat([received["embed.weight"], torch.zeros(6, 8)])
    model.embed = torch.nn.Module()
    model.embed.weight = torch.nn.Parameter(padded)
    model.lm_head = Packed(padded, keep=True)
    model.lm_head.weight = model.embed.weight  # tied
    model.norm = torch.nn.Module()
    model.norm.weight = torch.nn.Parameter(received["norm.weight"].clone())
    model.other = torch.nn.Linear(8, 8)  # of no received name
    return model, received


WATCHED = ["attn.qk_proj", "embed", "lm_head", "norm"]


def test_what_can_be_checked_is_found():
    model, received = build()
    assert matching_modules(model, received) == WATCHED
    assert stale_modules(model, received, WATCHED) == []


@pytest.mark.parametrize("name", ["attn.q_proj", "attn.k_proj", "norm"])
def test_one_changed_number_gives_its_layer_away(name):
    model, received = build()
    received[f"{name}.weight"].view(-1)[3] += 1e-3
    expected = "norm" if name == "norm" else "attn.qk_proj"
    assert stale_modules(model, received, WATCHED) == [expected]


def test_a_tied_head_that_was_not_packed_again():
    model, received = build()
    received["embed.weight"] += 0.01
    with torch.no_grad():
        model.embed.weight[:10] += 0.01
    assert stale_modules(model, received, WATCHED) == ["lm_head"]
    model.lm_head.pack(model.embed.weight)
    assert stale_modules(model, received, WATCHED) == []


def test_sharded_layers_are_not_watched():
    model, received = build()
    model.attn.qk_proj = Packed(torch.randn(6, 8), keep=False)
    assert "attn.qk_proj" not in matching_modules(model, received)
