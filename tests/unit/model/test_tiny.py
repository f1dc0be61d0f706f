"""Tiny random models in the image of others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, Qwen2Config, Qwen3MoeConfig

from posttrain.errors import InputError
from posttrain.model.load import load_model, load_state, load_tokenizer
from posttrain.model.micro import micro_tokenizer
from posttrain.model.tiny import adopt_tiny, tiny_sizes

QWEN = Qwen2Config(
    hidden_size=896, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2,
    intermediate_size=4864, vocab_size=64, max_position_embeddings=32768, tie_word_embeddings=True,
)  # fmt: skip
LLAMA = LlamaConfig(
    hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=32,
    intermediate_size=11008, vocab_size=64,
)  # fmt: skip
MOE = Qwen3MoeConfig(
    hidden_size=2048, num_hidden_layers=48, num_attention_heads=32, num_key_value_heads=4,
    num_experts=128, num_experts_per_tok=8, moe_intermediate_size=768, head_dim=128, vocab_size=64,
)  # fmt: skip


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with a configuration and a tokenizer; its weights are a trap."""
    folder = tmp_path / "big"
    QWEN.save_pretrained(folder)
    micro_tokenizer().save_pretrained(folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": [1], "top_k": 7}')
    (folder / "model.safetensors").write_bytes(b"not read")
    return folder


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        # Per layer: attention 128·128·2 + 128·64·2, feed-forward 3·128·256, norms 2·128, and biases
        # of queries, keys and values 128 + 2·64; embedding 64·128 (tied), last norm 128.
        (QWEN, 4 * (49_152 + 98_304 + 256 + 256) + 8_192 + 128),
        # Four key heads for four: attention 4·128·128; two matrices of the vocabulary.
        (LLAMA, 4 * (65_536 + 98_304 + 256) + 2 * 8_192 + 128),
        # Four experts of 3·128·256 and a router of 4·128; queries and keys have norms of 32.
        (MOE, 4 * (49_152 + 4 * 98_304 + 512 + 256 + 64) + 2 * 8_192 + 128),
    ],
)
def test_sizes(config, parameters, tmp_path):
    config.save_pretrained(tmp_path / "big")
    micro_tokenizer().save_pretrained(tmp_path / "big")
    adopt_tiny(str(tmp_path / "big"), tmp_path / "tiny", None, seed=0)
    model = load_model(tmp_path / "tiny")
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model.config.model_type == config.model_type
    ids = torch.tensor([[5, 6, 7]])
    assert model(ids).logits.shape == (1, 3, 64)


def test_what_is_no_size_stays(source, tmp_path):
    adopt_tiny(str(source), tmp_path / "tiny", "chatml", seed=0)
    model, tokenizer = load_model(tmp_path / "tiny"), load_tokenizer(tmp_path / "tiny")
    assert model.config.max_position_embeddings == 32768
    assert model.config.vocab_size == 64 and model.config.tie_word_embeddings
    assert len(tokenizer) == 64 and "im_start" in tokenizer.chat_template


def test_nothing_is_written_into_the_models_own_folder(source, tmp_path):
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    adopt_tiny(str(source), tmp_path / "tiny", "chatml", seed=0)
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before
    assert '"top_k": 7' in (tmp_path / "tiny" / "generation_config.json").read_text()


def test_the_seed_says_the_weights(source, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        adopt_tiny(str(source), tmp_path / name, None, seed)
    a, b, c = (load_state(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["model.embed_tokens.weight"], c["model.embed_tokens.weight"])


def test_an_architecture_that_cannot_be_small_is_named(source, tmp_path):
    (source / "config.json").write_text('{"model_type": "nothing-known"}')
    with pytest.raises(InputError) as caught:
        adopt_tiny(str(source), tmp_path / "tiny", None, seed=0)
    assert caught.value.problems[0].code == "no-tiny-model"
    assert not (tmp_path / "tiny").exists()


def test_sizes_that_a_configuration_lacks_are_not_invented():
    assert tiny_sizes({"hidden_size": 4096, "n_embd": 3}) == {"hidden_size": 128}
    kinds = ["sliding_attention", "full_attention"] * 9
    sizes = tiny_sizes({"num_hidden_layers": 18, "layer_types": kinds})
    assert sizes == {"num_hidden_layers": 4, "layer_types": kinds[:4]}
    one_head = {"num_attention_heads": 8, "num_key_value_heads": 1}
    assert tiny_sizes(one_head) == {"num_attention_heads": 4, "num_key_value_heads": 1}
