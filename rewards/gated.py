"""A reward behind constraints: an answer that breaks one of them earns nothing, however good.

The mixture of judges of CGPO (Xu et al. 2024, arXiv 2409.20370, section 4): `R_cr = R` where every
judge is satisfied, else 0. Judges are rewards like any other, rules or models; one is satisfied
where it passes the answer, or, where it has no opinion of right and wrong, gives it `at_least`.

    reward:
      combine: gated
      score: gsm8k
      judges:
        short: {name: length, high: 400}
        no_loops: {reward: repetition, at_least: 0.5}

Parts of what a judge is made of stand under the judge's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, model_validator

from posttrain.config.plugin import RewardPlugin
from posttrain.config.strict import StrictModel
from posttrain.reward.parts import scored
from posttrain.reward.protocol import Example
from posttrain.types import JUDGE_PART, Score


class Judge(StrictModel):
    """A constraint; `{name: length, high: 400}` is short for `{reward: {name: length, ...}}`."""

    reward: RewardPlugin
    """The reward that says whether it holds."""
    at_least: float = 1.0
    """The value that satisfies it, where the reward has no opinion of right and wrong."""

    @model_validator(mode="before")
    @classmethod
    def _bare_reward(cls, value: Any) -> Any:
        is_rule = isinstance(value, dict) and "reward" in value
        return value if is_rule or isinstance(value, cls) else {"reward": value}

    def is_satisfied(self, verdict: Score) -> bool:
        """By the reward's own opinion, or else by its value."""
        if verdict.passed is not None:
            return verdict.passed
        return verdict.value >= self.at_least - 1e-9


class Config(StrictModel):
    """What is earned, and what has to hold for it."""

    score: RewardPlugin = RewardPlugin(name="gsm8k")
    """The reward of an answer that satisfies all judges."""
    judges: dict[str, Judge] = Field(default_factory=dict)
    """Constraints by name: each is a reward, and satisfied where that passes the answer."""


async def score(row: Mapping[str, Any], completion: str, config: Config) -> Score:
    """The score's own value, or 0 with the names of the judges that are not satisfied."""
    inner = await scored(config.score, row, completion)
    parts, broken = dict(inner.parts), []
    for name, judge in config.judges.items():
        verdict = await scored(judge.reward, row, completion)
        satisfied = judge.is_satisfied(verdict)
        parts |= {f"{name}/{part}": value for part, value in verdict.parts.items()}
        parts[f"{JUDGE_PART}{name}"] = float(satisfied)
        if not satisfied:
            broken.append(f"{name}: {verdict.reason}" if verdict.reason else name)
    if broken:
        return Score(0.0, passed=False, parts=parts, reason=f"violates {'; '.join(broken)}")
    return Score(inner.value, inner.passed, parts, inner.reason)


def gold(config: Config) -> Sequence[Example]:
    """None of its own: its parts prove themselves."""
    return []


def bad(config: Config) -> Sequence[Example]:
    return []
