"""Adapters on a small model, with peft's own merge as the truth."""

import copy

import pytest
import torch
from safetensors.torch import load_file

from posttrain.config.lora import Lora
from posttrain.errors import InputError
from posttrain.model.load import load_model
from posttrain.model.lora import (
    adapted_layers,
    adapter_matrices,
    adapters_off,
    add_adapters,
    base_folder,
    has_adapters,
    merged_parameters,
    merged_weight,
    save_adapter,
)

TOKENS = torch.arange(3, 40)[None]


@pytest.fixture
def adapted(micro):
    """All linear layers adapted, B no longer zeros, as after some training."""
    model = load_model(micro)
    add_adapters(model, Lora(rank=4, alpha=12), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for layer in adapted_layers(model).values():
            layer.up.copy_(0.1 * torch.randn(layer.up.shape, generator=generator))
    return model


def logits(model):
    with torch.no_grad():
        return model(input_ids=TOKENS).logits[0]


def test_merged_by_hand():
    """W + s·B·A with s = 2: [1 2; 3 4] + 2·[1; 10]·[1 -1] = [3 0; 23 -16]."""
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    down, up = torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0], [10.0]])
    merged = merged_weight(weight, down, up, 2.0, torch.float32)
    assert merged.tolist() == [[3.0, 0.0], [23.0, -16.0]]
    assert merged_weight(weight, down, up, 2.0, torch.bfloat16).dtype == torch.bfloat16


def test_bf16_weights_are_added_to_in_fp32_and_rounded_once():
    """1 + 2⁻⁸ would be rounded to 1 in bf16 (8 bits); a sum of two such steps is not."""
    weight = torch.ones(1, 1, dtype=torch.bfloat16)
    down, up = torch.ones(2, 1), torch.full((1, 2), 2.0**-8)
    assert merged_weight(weight, down, up, 1.0, torch.bfloat16).item() == 1.0 + 2.0**-7


def test_a_new_adapter_changes_nothing(micro):
    model = load_model(micro)
    before = logits(model)
    assert not has_adapters(model)
    add_adapters(model, Lora(rank=4), seed=1)
    assert has_adapters(model) and base_folder(model) == str(micro)
    assert torch.equal(logits(model), before)
    assert not model.training


def test_only_adapters_are_trained(adapted):
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in adapted.named_parameters() if ".lora_" in name}
    # 7 matrices in each of the layers: q, k, v, o, gate, up, down
    assert len(adapted_layers(adapted)) == 7 * adapted.config.num_hidden_layers
    assert len(trained) == 2 * len(adapted_layers(adapted))
    # rank × (rows + columns) of 128×128, 64×128, 64×128, 128×128, 512×128, 512×128, 128×512
    each = 4 * (256 + 192 + 192 + 256 + 640 + 640 + 640)
    total = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert total == each * adapted.config.num_hidden_layers


def test_merged_is_pefts_merge(adapted):
    from peft.tuners.lora import LoraLayer

    expected = copy.deepcopy(adapted)
    for module in list(expected.modules()):
        if isinstance(module, LoraLayer):
            module.merge()
    theirs = {
        name.replace(".base_layer.", "."): value.detach()
        for name, value in expected.named_parameters()
        if ".lora_" not in name
    }
    ours = dict(merged_parameters(adapted, torch.float32))
    assert ours.keys() == theirs.keys()
    assert max(float((ours[n] - theirs[n]).abs().max()) for n in ours) <= 1e-6
    base = {name: p.detach() for name, p in load_model(base_folder(adapted)).named_parameters()}
    assert max(float((ours[n] - base[n]).abs().max()) for n in ours) > 0.1


def test_a_merged_model_computes_what_the_adapted_one_does(adapted, micro):
    plain = load_model(micro)
    plain.load_state_dict(dict(merged_parameters(adapted, torch.float32)), strict=False)
    assert float((logits(plain) - logits(adapted)).abs().max()) < 1e-4
    assert float((logits(load_model(micro)) - logits(adapted)).abs().max()) > 0.1


def test_adapters_off_is_the_base_bit_for_bit(adapted, micro):
    base, on = logits(load_model(micro)), logits(adapted)
    with adapters_off(adapted):
        assert torch.equal(logits(adapted), base)
    assert torch.equal(logits(adapted), on)
    assert all(p.requires_grad for n, p in adapted.named_parameters() if ".lora_" in n)


def test_adapters_are_on_again_after_an_error(adapted):
    on = logits(adapted)
    with pytest.raises(ZeroDivisionError), adapters_off(adapted):
        _ = 1 / 0
    assert torch.equal(logits(adapted), on)


def test_the_seed_gives_the_adapter_and_leaves_other_chance_alone(micro):
    def matrices(seed):
        model = load_model(micro)
        add_adapters(model, Lora(rank=4), seed)
        return dict(adapter_matrices(model))

    torch.manual_seed(9)
    one = matrices(1)
    after = torch.rand(1)
    torch.manual_seed(9)
    assert torch.equal(torch.rand(1), after)
    same, other = matrices(1), matrices(2)
    name = "model.layers.0.self_attn.q_proj.lora_A.weight"
    assert all(torch.equal(one[n], same[n]) for n in one)
    assert not torch.equal(one[name], other[name])
    assert not one[name.replace("lora_A", "lora_B")].any()


def test_peft_reads_what_is_saved(adapted, micro, tmp_path):
    from peft import PeftModel

    matrices = dict(adapter_matrices(adapted))
    save_adapter(adapted, matrices, tmp_path / "adapter")
    theirs = PeftModel.from_pretrained(load_model(micro), tmp_path / "adapter")
    assert torch.equal(logits(theirs), logits(adapted))
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert all(torch.equal(saved[f"base_model.model.{n}"], value) for n, value in matrices.items())


def test_some_layers_by_name(micro):
    model = load_model(micro)
    add_adapters(model, Lora(rank=2, targets=["q_proj", "down_proj"]), seed=0)
    assert {name.rpartition(".")[2] for name in adapted_layers(model)} == {"q_proj", "down_proj"}


@pytest.mark.parametrize(
    ("settings", "code", "message", "help"),
    [
        ({"targets": ["q_prj"]}, "unknown-layer", "no linear layer `q_prj`", "`q_proj`"),
        ({"targets": ["lm_head"]}, "unknown-layer", "no linear layer `lm_head`", "there are down"),
        ({"targets": ["embed_tokens"]}, "unknown-layer", "no linear layer", ""),
        (
            {"rank": 65},
            "rank-too-large",
            "is 65, but model.layers.0.self_attn.k_proj has 64 × 128 weights",
            "rank: 64 or less, or `lora.targets` without k_proj",
        ),
    ],
)
def test_what_does_not_fit_the_model_is_refused(micro, settings, code, message, help):
    model = load_model(micro)
    with pytest.raises(InputError) as caught:
        add_adapters(model, Lora(**settings), seed=0)
    (problem,) = caught.value.problems
    assert problem.code == code and message in problem.message and help in problem.help
    assert not has_adapters(model)
