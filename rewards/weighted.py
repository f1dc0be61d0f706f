"""The weighted sum of several rewards.

    reward:
      combine: weighted
      parts:
        correct: {reward: math}
        short: {reward: {name: overlong, high: 400}, weight: 0.5}

An answer passes where every part that has an opinion of right and wrong passes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, model_validator

from posttrain.config.plugin import RewardPlugin
from posttrain.config.strict import Contradiction, StrictModel
from posttrain.reward.parts import scored
from posttrain.reward.protocol import Example
from posttrain.types import JUDGE_PART, Score


class Part(StrictModel):
    """One reward and what it counts."""

    reward: RewardPlugin
    """The reward."""
    weight: float = 1.0
    """What its value is multiplied with; negative turns it into a penalty."""


class Config(StrictModel):
    """The parts by name."""

    parts: dict[str, Part] = Field(default_factory=dict)
    """Each part's reward and weight; one or more."""

    @model_validator(mode="after")
    def _has_parts(self) -> Config:
        if not self.parts:
            raise Contradiction("a sum of no parts is always 0", "parts: {correct: {reward: math}}")
        return self


async def score(row: Mapping[str, Any], completion: str, config: Config) -> Score:
    """The sum; each part's own value stands in the parts."""
    scores = {
        name: await scored(part.reward, row, completion) for name, part in config.parts.items()
    }
    value = sum(config.parts[name].weight * each.value for name, each in scores.items())
    opinions = [each.passed for each in scores.values() if each.passed is not None]
    reasons = [f"{name}: {each.reason}" for name, each in scores.items() if each.reason]
    parts = {name: each.value for name, each in scores.items()}
    for name, each in scores.items():  # judges keep their names: they are told of by them
        for part, value_of_part in each.parts.items():
            own = part if part.startswith(JUDGE_PART) else f"{name}/{part}"
            parts[own] = value_of_part
    return Score(value, all(opinions) if opinions else None, parts, "; ".join(reasons))


def gold(config: Config) -> Sequence[Example]:
    """None of its own: its parts prove themselves."""
    return []


def bad(config: Config) -> Sequence[Example]:
    return []
