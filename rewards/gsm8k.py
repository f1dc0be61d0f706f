"""GSM8K (Cobbe et al. 2021, arXiv 2110.14168): 1 where the last number is the right one, else 0.

Reads the row's `answer`: a worked solution that ends in `#### 18`, or the number alone. The model's
answer is the last number it writes outside of `<think>` (so the 5 of `1/5`); numbers are compared
as numbers, so `18.00` and `$18` are right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.config.strict import StrictModel
from posttrain.errors import RewardBroken
from posttrain.reward.answers import (
    after_marker,
    as_number,
    last_number,
    same_number,
    without_thinking,
)
from posttrain.reward.columns import text_of
from posttrain.reward.protocol import Example
from posttrain.reward.verdict import verdict
from posttrain.types import Score


class Config(StrictModel):
    """Nothing to set."""


def score(row: Mapping[str, Any], completion: str, config: Config) -> Score:
    """1.0 or 0.0. Raises RewardBroken for a row whose `answer` holds no number."""
    gold_text = text_of(row, "answer")
    truth = after_marker(gold_text)
    truth = gold_text.strip() if truth is None else truth
    if as_number(truth) is None:
        raise RewardBroken(f"the row's answer ends in {truth[-40:]!r}, not in a number")
    answer = last_number(without_thinking(completion))
    right = answer is not None and (answer == truth or same_number(answer, truth))
    return verdict(right, truth, answer)


def gold(config: Config) -> Sequence[Example]:
    return [
        Example({"answer": "She sold 48+24 = 72 clips.\n#### 72"}, "48 + 24 = 72."),
        Example({"answer": "#### 1,197"}, "So 1,200 - 3 = 1,197 dollars."),
        Example({"answer": "#### -7"}, "the answer is -7."),
        Example({"answer": "#### 18"}, "She makes $18.00"),
        Example({"answer": "#### -7"}, "<think>8 - 15</think>It is \u22127."),
    ]


def bad(config: Config) -> Sequence[Example]:
    return [
        Example({"answer": "#### 18"}, "18 apples, no: 17"),
        Example({"answer": "18"}, "no idea"),
        Example({"answer": "18"}, ""),
        Example({"answer": "18"}, "<think>It could be 18"),
        Example({"answer": "18"}, " ".join(map(str, range(101)))),
        Example({"answer": "18"}, "#### 18\nNo, it is 1,8"),
    ]
