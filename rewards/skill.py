"""Skills of the micro world: 1 where the answer is letter for letter the right one, else 0.

Reads the row's `answer`. Blanks around the answer are forgiven, anything else is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from posttrain.config.strict import StrictModel
from posttrain.reward.protocol import GoldExample
from posttrain.types import Score


class Config(StrictModel):
    """Nothing to set."""


def score(row: Mapping[str, Any], completion: str, config: Config) -> Score:
    """1.0 or 0.0. Raises KeyError for a row without `answer`."""
    right = completion.strip() == row["answer"]
    return Score(float(right), passed=right)


GOLD = [
    GoldExample({"answer": "abcd"}, "abcd", 1.0),
    GoldExample({"answer": "4"}, "4\n", 1.0),
    GoldExample({"answer": "abcd"}, "abdc", 0.0),
    GoldExample({"answer": "abcd"}, "abcd abcd", 0.0),
    GoldExample({"answer": "4"}, "", 0.0),
]
