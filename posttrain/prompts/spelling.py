"""Spelling noise: a text as a hurried hand would have typed it.

A share of its words gets one slip each: two neighbouring letters swapped, one left out, or one
typed twice. No letter comes in that the word does not have, so a small alphabet is enough.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

_WORD = re.compile(r"[^\W\d_]{2,}")


def misspelt(text: str, share: float, random: Random) -> str:
    """The text with slips in a share of its words, at least in one; numbers are left alone.

    A text without a word of two letters stays as it is.
    """
    words = list(_WORD.finditer(text))
    count = min(len(words), max(1, round(share * len(words))))
    for word in sorted(random.sample(words, count), key=lambda each: -each.start()):
        text = f"{text[: word.start()]}{_slip(word.group(), random)}{text[word.end() :]}"
    return text


def misspelt_prompt(
    prompt: str | Sequence[Mapping[str, Any]], share: float, random: Random
) -> str | list[Mapping[str, Any]]:
    """A prompt with noise in what the user said last."""
    if isinstance(prompt, str):
        return misspelt(prompt, share, random)
    messages = list(prompt)
    said = [place for place, each in enumerate(messages) if each["role"] == "user"]
    if said:
        last = messages[said[-1]]
        messages[said[-1]] = {**last, "content": misspelt(last["content"], share, random)}
    return messages


def _slip(word: str, random: Random) -> str:
    kind, place = random.randrange(3), random.randrange(len(word) - 1)
    one, two = word[place], word[place + 1]
    if kind == 0 and one != two:
        return f"{word[:place]}{two}{one}{word[place + 2 :]}"
    if kind == 1:
        return f"{word[:place]}{word[place + 1 :]}"
    return f"{word[:place]}{one}{word[place:]}"
