"""Finding the answer in a text, and comparing numbers as numbers.

Decimal all the way: as floats, 0.1 + 0.2 is not 0.3 and large whole numbers lose digits.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

# A minus is a sign only where no digit or bracket stands before it: `5-3` ends in 3, `is -3` in -3.
_NUMBER = re.compile(
    r"(?<![\d)])-?(?:\d+(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<![\d)])-?\.\d+", re.ASCII
)
_AROUND = " \t\r\n$€£%"
_TAIL = 40


def last_number(text: str) -> str | None:
    """The last number of a text as it is written, without thousands' commas; None if there is none.

    "So 1,200 - 3 = 1,197 dollars." gives `1197`, "the answer is -7." gives `-7`, "1,2,3" gives `3`.
    """
    if not text.isascii():
        text = text.replace("\u2212", "-")  # the minus of those who set type
    # No number holds a blank: those after one are the same if read from there.
    tail = text.rfind(" ", 0, max(len(text) - _TAIL, 0)) + 1
    numbers = _NUMBER.findall(text, tail) or _NUMBER.findall(text, 0, tail)
    return numbers[-1].replace(",", "") if numbers else None


def as_number(text: str) -> Decimal | None:
    """A text that is one number (`$1,200.50`, `18.`, `40%`) as that number; None for any other.

    Signs of money and per cent are read over, not computed with.
    """
    bare = text.strip(_AROUND).rstrip(".").rstrip(_AROUND)
    if bare.startswith("-"):
        bare = "-" + bare[1:].lstrip(_AROUND)
    if not re.fullmatch(r"[+-]?(\d+(,\d{3})*(\.\d*)?|\.\d+)", bare, re.ASCII):
        return None
    try:
        return Decimal(bare.replace(",", ""))
    except InvalidOperation:
        return None


def same_number(first: str, second: str) -> bool:
    """Whether two texts say the same number: `18` and `18.00`, `1,200` and `$1200`."""
    one, other = as_number(first), as_number(second)
    return one is not None and one == other


def after_marker(text: str, marker: str = "####") -> str | None:
    """What stands after the last marker, up to the end of its line; None without a marker."""
    if marker not in text:
        return None
    return text.rpartition(marker)[2].lstrip(" \t").partition("\n")[0].strip()


def last_tagged(text: str, tag: str = "answer") -> str | None:
    """What stands in the last `<answer>…</answer>`; None without one that is closed."""
    opening, closing = f"<{tag}>", f"</{tag}>"
    end = text.rfind(closing)
    start = text.rfind(opening, 0, max(end, 0))
    return text[start + len(opening) : end].strip() if 0 <= start < end else None


def without_thinking(text: str) -> str:
    """What comes after the last `</think>`; nothing where thinking began and never ended."""
    _, end, answer = text.rpartition("</think>")
    if end:
        return answer
    return "" if text.lstrip().startswith("<think>") else text
