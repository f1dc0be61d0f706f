"""Game of 24 (Yao et al. 2023, Tree of Thoughts, arXiv 2305.10601, section 4.1): 1 or 0.

Reads the row's `numbers`, each of which has to be used exactly once in an expression that makes 24.
The expression is found and worked out as for countdown: in the last `<answer>…</answer>`, else the
last one in the last line that has any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.config.strict import StrictModel
from posttrain.reward import expressions
from posttrain.reward.columns import whole_numbers_of
from posttrain.reward.protocol import Example
from posttrain.types import Score

TARGET = 24


class Config(StrictModel):
    """Nothing to set."""


def score(row: Mapping[str, Any], completion: str, config: Config) -> Score:
    """1.0 or 0.0. Raises RewardBroken for a row without whole `numbers`."""
    return expressions.judge(completion, whole_numbers_of(row, "numbers"), TARGET)


_FOURS = {"numbers": [4, 6, 1, 1]}
_EIGHTS = {"numbers": [3, 3, 8, 8]}


def gold(config: Config) -> Sequence[Example]:
    return [
        Example(_FOURS, "6 * 4 * 1 * 1 = 24"),
        Example(_FOURS, "1 * 1 = 1 (left: 1 4 6)\n6 * 4 = 24\nAnswer: (4 * 6) * 1 / 1 = 24"),
        Example(_EIGHTS, "<answer>8 / (3 - 8 / 3)</answer>"),  # 8 / (1/3): exact as a fraction
        Example(_EIGHTS, "8 ÷ (3 \u2212 8 ÷ 3)"),
    ]


def bad(config: Config) -> Sequence[Example]:
    return [
        Example(_FOURS, ""),
        Example(_FOURS, "24"),
        Example(_FOURS, "6 * 4 = 24"),  # not every number
        Example(_FOURS, "6 * 4 * 1 * 1 * 1 = 24"),  # one too often
        Example(_FOURS, "46 - 11 - 11 = 24"),  # digits are not numbers
        Example(_FOURS, "6 * 4 * 1 * 1 = 24\n6 + 4 + 1 + 1 = 24"),
        Example(_EIGHTS, "8 * 3 + 8 // 8 ** 3"),
        Example(_EIGHTS, "8 / (3 - 3) * 8"),
    ]
