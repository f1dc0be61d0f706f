"""Text to token ids, piece by piece, so that joined pieces read as the joined text."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANCHOR = "\n"  # never merges with what follows it


def encode_piece(tokenizer: PreTrainedTokenizerBase, text: str, *, first: bool) -> list[int]:
    """Ids of one piece; the first gets the tokenizer's beginning-of-sequence token."""
    adds_bos, adds_space = _habits(tokenizer)
    if not first and adds_space:
        return _encode_joined(tokenizer, text)
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    bos = tokenizer.bos_token_id
    return [bos, *ids] if first and adds_bos and ids[:1] != [bos] else ids


def _encode_joined(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of text in the middle, for tokenizers that put a space before whatever they are given."""
    anchor = list(tokenizer(ANCHOR, add_special_tokens=False)["input_ids"])
    ids = list(tokenizer(ANCHOR + text, add_special_tokens=False)["input_ids"])
    if ids[: len(anchor)] == anchor:
        return ids[len(anchor) :]
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@lru_cache(maxsize=16)
def _habits(tokenizer: PreTrainedTokenizerBase) -> tuple[bool, bool]:
    """(puts a beginning-of-sequence token first, puts a space first) when given plain text."""
    bos = tokenizer.bos_token_id
    adds_bos = bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("a", add_special_tokens=False)["input_ids"])
    return adds_bos, bool(tokens) and tokens[0].startswith("▁")
