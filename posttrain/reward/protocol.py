"""What a reward is: one file with `Config`, `score()` and `GOLD`.

    class Config(StrictModel): ...                       # its settings, each with one sentence
    def score(row, completion, config) -> Score: ...     # row: the prompt's columns
    GOLD = [GoldExample({"answer": "65"}, "65", 1.0)]    # it proves itself on these before a run

A wrong answer is `Score(0.0, passed=False)`. A reward that cannot tell raises: then the answer is
tried again, and dropped and counted if that fails too. It is never scored 0, which would teach the
model that a good answer was bad.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

from posttrain.config.strict import StrictModel
from posttrain.errors import RewardBroken
from posttrain.types import Score


@dataclass(frozen=True, slots=True)
class GoldExample:
    """An answer whose score is known. Have right ones and wrong ones.

    Example: GoldExample({"answer": "65"}, "7+58=65", 1.0)
    """

    row: Mapping[str, Any]
    completion: str
    value: float


class Reward(Protocol):
    """A reward's file as the rest of the library sees it."""

    Config: type[StrictModel]
    GOLD: Sequence[GoldExample]

    def score(self, row: Mapping[str, Any], completion: str, config: Any) -> Score:
        """The answer's score. May be slow, may raise; runs in a process that can be killed."""
        ...


def checked(result: object) -> Score:
    """`result` as a Score of finite floats. Raises RewardBroken where it is none.

    A bare number is taken as a value; what is right and wrong is then unknown.
    """
    if isinstance(result, (int, float)):
        result = Score(float(result))
    if not isinstance(result, Score):
        raise RewardBroken(
            f"score() returned {type(result).__name__}, not a Score",
            help="return Score(value, passed=...) from posttrain.types",
        )
    parts = {str(name): _finite(f"part `{name}`", part) for name, part in result.parts.items()}
    return Score(_finite("value", result.value), result.passed, parts)


def failed_gold(reward: ModuleType, config: StrictModel) -> list[str]:
    """One line for each gold example that does not score what it should; none for a sound reward.

    Runs in this process: errors of the reward's own pass through.
    """
    failures = []
    for example in reward.GOLD:
        value = checked(reward.score(example.row, example.completion, config)).value
        if not math.isclose(value, example.value, abs_tol=1e-6):
            failures.append(f"{example.completion!r} scored {value:g}, not {example.value:g}")
    return failures


def _finite(what: str, number: object) -> float:
    if not isinstance(number, (int, float)) or not math.isfinite(number):
        raise RewardBroken(
            f"score() returned {number!r} as {what}, not a finite number",
            help="return numbers only; raise where the answer cannot be judged",
        )
    return float(number)
