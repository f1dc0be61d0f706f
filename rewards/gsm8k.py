"""GSM8K (Cobbe et al. 2021, arXiv 2110.14168): 1 where the last number is the right one, else 0.

Reads the row's `answer`: a worked solution that ends in `#### 18`, or the number alone. The model's
answer is the last number it writes; numbers are compared as numbers, so `18.00` and `$18` are
right.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from posttrain.config.strict import StrictModel
from posttrain.errors import RewardBroken
from posttrain.reward.answers import after_marker, as_number, last_number, same_number
from posttrain.reward.protocol import GoldExample
from posttrain.types import Score


class Config(StrictModel):
    """Settings of the GSM8K verifier."""

    value_right: float = 1.0
    """Score of a right answer; Tulu 3 uses 10."""


def score(row: Mapping[str, Any], completion: str, config: Config) -> Score:
    """`value_right` or 0.0. Raises RewardBroken for a row whose `answer` holds no number."""
    truth = after_marker(row["answer"])
    truth = row["answer"] if truth is None else truth
    if as_number(truth) is None:
        raise RewardBroken(f"the row's answer ends in {truth[-40:]!r}, not in a number")
    answer = last_number(completion)
    right = answer is not None and same_number(answer, truth)
    return Score(config.value_right if right else 0.0, passed=right)


GOLD = [
    GoldExample({"answer": "She sold 48+24 = 72 clips.\n#### 72"}, "48 + 24 = 72.", 1.0),
    GoldExample({"answer": "#### 1,197"}, "So 1,200 - 3 = 1,197 dollars.", 1.0),
    GoldExample({"answer": "#### -7"}, "the answer is -7.", 1.0),
    GoldExample({"answer": "#### 18"}, "She makes $18.00", 1.0),
    GoldExample({"answer": "#### 18"}, "18 apples, no: 17", 0.0),
    GoldExample({"answer": "18"}, "no idea", 0.0),
]
