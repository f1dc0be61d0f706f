"""What a verifier says of an answer: right, or wrong with what was expected and what was found."""

from __future__ import annotations

from posttrain.types import Score

MOST_SHOWN = 80


def verdict(right: bool, expected: object, found: object) -> Score:
    """1.0 or 0.0; a wrong answer's reason is `expected 72, found 71`."""
    if right:
        return Score(1.0, passed=True)
    return wrong(f"expected {shown(expected)}, found {shown(found)}")


def wrong(reason: str) -> Score:
    """0.0 with a reason of one's own."""
    return Score(0.0, passed=False, reason=reason)


def shown(value: object) -> str:
    """A value in one short line that any terminal can print; None is `nothing`."""
    if value is None:
        return "nothing"
    text = " ".join(str(value)[: 4 * MOST_SHOWN].split())
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 3] + "..."
