"""Skills of the micro world: 1 where the answer is letter for letter the right one, else 0.

Reads the row's `answer`. Blanks around the answer are forgiven, anything else is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.config.strict import StrictModel
from posttrain.reward.columns import text_of
from posttrain.reward.protocol import Example
from posttrain.types import Score


class Config(StrictModel):
    """Nothing to set."""


def score(row: Mapping[str, Any], completion: str, config: Config) -> Score:
    """1.0 or 0.0. Raises RewardBroken for a row without `answer`."""
    right = completion.strip() == text_of(row, "answer")
    return Score(float(right), passed=right)


def gold(config: Config) -> Sequence[Example]:
    return [Example({"answer": "abcd"}, "abcd"), Example({"answer": "4"}, "4\n")]


def bad(config: Config) -> Sequence[Example]:
    return [
        Example({"answer": "abcd"}, "abdc"),
        Example({"answer": "abcd"}, "abcd abcd"),
        Example({"answer": "4"}, ""),
    ]
