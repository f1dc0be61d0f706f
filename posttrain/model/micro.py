"""A model of three quarters of a million random parameters, its tokenizer: one token a character.

An ordinary Hugging Face folder comes out (Qwen3 in small), so everything that takes a model takes
this one: transformers, TRL, vLLM.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from posttrain.microworld import ALPHABET
from posttrain.model.chat_templates import PLAIN, read_template
from posttrain.model.load import no_progress_bars

PAD, END_OF_TURN, UNKNOWN = "<pad>", "<eos>", "<unk>"
CONTEXT_TOKENS = 128


def build_micro(directory: str | Path, seed: int) -> None:
    """Write a randomly initialised model and its tokenizer to `directory` (made if need be).

    The same seed gives the same bytes of weights.
    """
    no_progress_bars()
    tokenizer = micro_tokenizer()
    model = micro_model(tokenizer, seed)
    tokenizer.save_pretrained(directory)
    model.save_pretrained(directory)


def micro_tokenizer() -> PreTrainedTokenizerFast:
    """64 tokens: padding, end of turn, unknown, and the alphabet. Padding is never end of turn."""
    vocabulary = {token: i for i, token in enumerate([PAD, END_OF_TURN, UNKNOWN, *ALPHABET])}
    # A byte-pair model without merges leaves every character by itself.
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=UNKNOWN))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END_OF_TURN,
        unk_token=UNKNOWN,
        padding_side="left",
        model_max_length=CONTEXT_TOKENS,
        clean_up_tokenization_spaces=False,
        chat_template=read_template(PLAIN),
    )


def micro_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen3ForCausalLM:
    """746,560 random weights in fp32; input and output embeddings are tied.

    Queries and keys are normalised (as Qwen3 does), which lets so small a model learn at 3e-3. The
    rotation base is 100, not 10,000: in texts of 30 characters the slow rotations would stand
    still.
    """
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=512,
        max_position_embeddings=CONTEXT_TOKENS,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},
        initializer_range=0.06,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True
    )
    return model
