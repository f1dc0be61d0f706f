"""Reading a row's columns: one that is missing or of the wrong kind is RewardBroken.

A row without its right answer says nothing of the model's: scoring it 0 would blame the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from posttrain.errors import RewardBroken
from posttrain.types import BASELINE_SCORES_COLUMN, SCORES_COLUMN


def is_text(value: object) -> bool:
    """Whether a column's value says something: a text that is not blank."""
    return isinstance(value, str) and bool(value.strip())


def text_of(row: Mapping[str, Any], column: str) -> str:
    """The column's text. Raises RewardBroken where it is missing, no text, or blank."""
    text = _value(row, column)
    if not isinstance(text, str):
        raise RewardBroken(f"the row's `{column}` is {text!r:.80}, not a text", help=_HELP)
    if not is_text(text):
        raise RewardBroken(f"the row's `{column}` is blank", help=_HELP)
    return text


def whole_number_of(row: Mapping[str, Any], column: str) -> int:
    """The column's whole number. Raises RewardBroken where it is missing or something else."""
    number = _value(row, column)
    if not _is_whole(number):
        raise RewardBroken(f"the row's `{column}` is {number!r:.80}, not a whole number")
    return int(number)


def whole_numbers_of(row: Mapping[str, Any], column: str) -> list[int]:
    """The column's list of whole numbers, at least one. Raises RewardBroken for anything else."""
    numbers = _value(row, column)
    if not isinstance(numbers, (list, tuple)) or not numbers or not all(map(_is_whole, numbers)):
        raise RewardBroken(f"the row's `{column}` is {numbers!r:.80}, not a list of whole numbers")
    return [int(number) for number in numbers]


_RESERVED = (SCORES_COLUMN, BASELINE_SCORES_COLUMN)
_HELP = "name the right column under `data: columns:`, or drop such rows"


def _value(row: Mapping[str, Any], column: str) -> Any:
    if column not in row:
        own = [name for name in row if name not in _RESERVED]
        there = ", ".join(f"`{name}`" for name in own[:20]) or "none"
        raise RewardBroken(f"the row has no column `{column}`; it has {there}", help=_HELP)
    return row[column]


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
