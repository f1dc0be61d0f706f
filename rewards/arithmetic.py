"""Arithmetic of the micro world: 1 where the last number of the answer is the right one, else 0.

Reads the row's `answer`. What comes before the last number is free, so working it out is allowed
and blurting it out is too; which of them pays is for the policy to find.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.config.strict import StrictModel
from posttrain.microworld import is_right
from posttrain.reward.columns import text_of
from posttrain.reward.protocol import Example
from posttrain.types import Score


class Config(StrictModel):
    """Nothing to set."""


def score(row: Mapping[str, Any], completion: str, config: Config) -> Score:
    """1.0 or 0.0. Raises RewardBroken for a row without `answer`."""
    right = is_right("arithmetic", text_of(row, "answer"), completion)
    return Score(float(right), passed=right)


def gold(config: Config) -> Sequence[Example]:
    return [
        Example({"answer": "85"}, "85"),
        Example({"answer": "85"}, "7+8=15 4+3+1=8 85"),
        Example({"answer": "14"}, "12-8=4 5-3-1=1 14"),
    ]


def bad(config: Config) -> Sequence[Example]:
    return [
        Example({"answer": "85"}, "85 84"),
        Example({"answer": "14"}, "-14"),
        Example({"answer": "85"}, ""),
    ]
