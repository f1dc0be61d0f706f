"""Which half is frozen: by layer and kind, the same for a seed, never outside the layers."""

from collections import Counter

import pytest
import torch

from posttrain.errors import InputError
from posttrain.model.load import load_model
from posttrain.train.half_fine_tuning import freeze_half, frozen_half, trained_share

ATTENTION, FEED_FORWARD = ("q", "k", "v", "o"), ("gate", "up", "down")


def llama(num_layers):
    """Names of a Llama's parameters, and how many dimensions each has."""
    names = {"model.embed_tokens.weight": 2}
    for layer in (f"model.layers.{number}" for number in range(num_layers)):
        names |= {f"{layer}.self_attn.{each}_proj.weight": 2 for each in ATTENTION}
        names |= {f"{layer}.self_attn.q_proj.bias": 1}
        names |= {f"{layer}.mlp.{each}_proj.weight": 2 for each in FEED_FORWARD}
        names |= {f"{layer}.{each}_layernorm.weight": 1 for each in ("input", "post_attention")}
    return {**names, "model.norm.weight": 1, "lm_head.weight": 2}


def test_half_of_each_kind_in_each_layer():
    frozen = frozen_half(llama(32), seed=5)
    weights = [name for name in frozen if name.endswith("weight")]
    kinds = Counter(name.split(".")[-2].rpartition("_")[2] for name in weights)
    assert sum("self_attn" in name for name in weights) == 64  # of 128
    assert sum(".mlp." in name for name in weights) == 48  # of 96
    assert kinds["layernorm"] == 32  # of 64
    by_layer = [
        sum(name.startswith(f"model.layers.{number}.mlp.") for name in weights)
        for number in range(32)
    ]
    assert by_layer in ([1, 2] * 16, [2, 1] * 16)
    for number in range(32):
        layer = f"model.layers.{number}."
        assert sum(name.startswith(f"{layer}self_attn") for name in weights) == 2
    assert not frozen & {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}


def test_a_bias_goes_with_its_matrix():
    frozen = frozen_half(llama(32), seed=5)
    pairs = [
        (f"model.layers.{number}.self_attn.q_proj.weight" in frozen,
         f"model.layers.{number}.self_attn.q_proj.bias" in frozen)
        for number in range(32)
    ]  # fmt: skip
    assert all(weight == bias for weight, bias in pairs) and len(set(pairs)) == 2


def test_the_seed_decides():
    assert frozen_half(llama(4), 1) == frozen_half(llama(4), 1)
    assert frozen_half(llama(4), 1) != frozen_half(llama(4), 2)


def test_a_model_is_frozen_in_place(micro):
    model = load_model(micro)
    frozen = freeze_half(model, seed=3)
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == frozen
    # Three layers: 2 of 4 attention matrices (16384, 8192, 8192, 16384) and of 4 norms each, 4 or
    # 5 of 9 feed-forward matrices of 65536; of 746560 in all
    frozen_sizes = [model.get_parameter(name).numel() for name in frozen]
    assert sorted(frozen_sizes).count(65536) in (4, 5)
    assert trained_share(model) == pytest.approx(1 - sum(frozen_sizes) / 746560)
    assert 0.45 < trained_share(model) < 0.6


def test_a_model_without_layers_is_refused():
    with pytest.raises(InputError, match="do not stand in numbered layers"):
        freeze_half(torch.nn.ModuleDict({"head": torch.nn.Linear(2, 2)}), seed=1)
