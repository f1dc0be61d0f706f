"""How long an answer is. Rewards see text, not tokens, so they count words or characters."""

from __future__ import annotations

import unicodedata
from typing import Literal

Unit = Literal["characters", "words"]


def pieces(text: str, unit: Unit) -> list[str]:
    """The text's words (whatever blanks part) or its characters without blanks around them."""
    visible = _visible(text)
    return visible.split() if unit == "words" else list(visible.strip())


def _visible(text: str) -> str:
    """Without format characters (zero-width blanks, joiners): nobody reads them."""
    if text.isascii():
        return text
    return "".join(each for each in text if unicodedata.category(each) != "Cf")


def length_in(text: str, unit: Unit) -> int:
    """The number of `pieces`."""
    return len(pieces(text, unit))


def text_of_length(length: int, unit: Unit) -> str:
    """Some text of exactly this length, without blanks at its ends and hardly repeating itself."""
    if unit == "words":
        return " ".join(map(str, range(length)))
    letters = "abcdefghijklmnopqrstuvwxyz"
    return "".join(letters[(i + i // 26 + i // 700) % 26] for i in range(length))
