"""Countdown (TinyZero, Pan et al. 2025): 1 where an expression makes the target, else 0.

Reads the row's `nums` (each has to be used exactly once) and its `target`. The answer's expression
is what its last `<answer>…</answer>` holds, else the last one in the last line that has any; whole
numbers, + - * / and brackets, worked out as exact fractions. What stands before is free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.config.strict import StrictModel
from posttrain.reward import expressions
from posttrain.reward.columns import whole_number_of, whole_numbers_of
from posttrain.reward.protocol import Example
from posttrain.types import Score


class Config(StrictModel):
    """Nothing to set."""


def score(row: Mapping[str, Any], completion: str, config: Config) -> Score:
    """1.0 or 0.0. Raises RewardBroken for a row without whole `nums` and `target`."""
    return expressions.judge(
        completion, whole_numbers_of(row, "nums"), whole_number_of(row, "target")
    )


_ROW = {"nums": [44, 19, 35], "target": 98}
_HALVES = {"nums": [3, 2, 6, 1], "target": 8}


def gold(config: Config) -> Sequence[Example]:
    return [
        Example(_ROW, "<think>19 + 35 = 54</think><answer>44 + (19 + 35)</answer>"),
        Example(_ROW, "19 + 35 = 54\n44 + 54 = 98\nSo it is 44 + (19 + 35)."),
        Example(_ROW, "44 + 19 + 35 = 98"),
        Example(_ROW, "98 = 44 + 19 + 35"),
        Example(_ROW, "1. [44 + 19] + 35 = 98"),
        Example(_ROW, "<answer>\n44 + 19\n+ 35\n</answer>"),
        Example(_HALVES, r"$(3 \div 2) \times 6 - 1 = 8$"),  # over a fraction
    ]


def bad(config: Config) -> Sequence[Example]:
    return [
        Example(_ROW, ""),
        Example(_ROW, "98"),
        Example(_ROW, "<answer>98 = 98</answer>"),
        Example(_ROW, "<answer>44 + 19 + 35 + 0</answer>"),  # a number of its own
        Example(_ROW, "<answer>44 + 54</answer>"),  # a sum of two put in as one
        Example(_ROW, "<answer>44 + 19 - 35</answer>"),
        Example(_ROW, "<answer>44 + 19 + 35, 44 + 19 - 35</answer>"),  # two at once
        Example(_ROW, "<answer>44 + 19 + 35 = 99</answer>"),  # right, and said to be something else
        Example(_ROW, "44 + 19 + 35 ≠ 98"),
        Example(_ROW, "44 + 19 + 35 = 98\nno, rather\n44 - 19 + 35 = 98"),
        Example(_ROW, "<answer>44 + 19 + 35</answer> <answer>9**9**9</answer>"),
        Example(_ROW, " + ".join(map(str, range(101)))),
    ]
