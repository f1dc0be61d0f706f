"""A model rates answers by a rubric: the rating on its scale, moved to 0..1.

With `aspects`, each is rated by a question of its own and the value is their mean, as in Tülu 3's
preference data (arXiv 2411.15124). A rating that cannot be read is dropped, not lowered; with less
than half of them left the answer counts as not judged.

Degenerate: the judge sees its own rubric only. What it likes (length, confidence, its own style) is
what the policy will learn; keep a verifiable measure beside it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, field_validator, model_validator

from posttrain.config.strict import Contradiction
from posttrain.reward.judging.client import Judgement, judge_for
from posttrain.reward.judging.form import Form, JudgeNonsense
from posttrain.reward.judging.settings import JudgeSettings
from posttrain.reward.judging.wording import column_of, judge_prompt, question_of
from posttrain.reward.protocol import Example
from posttrain.types import Score

RUBRIC = (
    "How good is the answer to the question? Good answers are right, do what was asked, say what "
    "is needed and no more, and claim nothing that is not so."
)


class Config(JudgeSettings):
    """Which judge, what it looks at, and on which scale."""

    rubric: str = RUBRIC
    """What makes an answer good, told to the judge in front of everything else."""
    aspects: dict[str, str] = Field(default_factory=dict)
    """Rate these one by one instead of all at once: a name, and what is rated under it."""
    low: int = 1
    """The worst rating, which scores 0."""
    high: int = 10
    """The best rating, which scores 1."""
    pass_at: float | None = None
    """The rating from which on an answer passes; empty: right and wrong mean nothing here."""
    reference_column: str | None = None
    """The row's column with a right answer to compare with, shown to the judge."""

    @field_validator("aspects")
    @classmethod
    def _names(cls, aspects: dict[str, str]) -> dict[str, str]:
        for name in aspects:
            if not re.fullmatch(r"[A-Za-z][\w-]*", name):
                raise Contradiction(f"`{name}` is no aspect's name", "letters, digits, `_` and `-`")
        return aspects

    @model_validator(mode="after")
    def _scale(self) -> Config:
        if not 1 <= self.high - self.low <= 100:
            raise Contradiction(
                f"a scale from {self.low} to {self.high}", "2 to 101 ratings: low: 1, high: 10"
            )
        if self.pass_at is not None and not self.low <= self.pass_at <= self.high:
            raise Contradiction(
                f"`pass_at` {self.pass_at:g} is not on the scale",
                f"a rating from {self.low} to {self.high}",
            )
        return self


async def score(row: Mapping[str, Any], completion: str, config: Config) -> Score:
    """The judge's rating as 0..1. Raises RewardBroken where the judge does not give one."""
    judge, form = judge_for(config), _form(config)
    prompts = [_prompt(row, completion, config, task) for task in _tasks(config)]
    answers = await asyncio.gather(
        *(judge.ask(prompt, form) for prompt in prompts), return_exceptions=True
    )
    rated, cost = _rated(answers)
    if 2 * len(rated) < len(prompts):
        raise next(answer for answer in answers if isinstance(answer, BaseException))
    names = list(config.aspects)
    ratings = {at: float(answer.choice) for at, answer in rated.items()}
    mean = sum(ratings.values()) / len(ratings)
    worst = min(ratings, key=ratings.__getitem__)
    parts = {names[at]: rating for at, rating in ratings.items()} if names else {}
    parts["judging/rating"] = mean
    parts["judging/cost"] = cost
    parts["judging/cached"] = sum(answer.cached for answer in rated.values()) / len(rated)
    reason = f"{names[worst]}: {rated[worst].reason}" if names else rated[worst].reason
    passed = None if config.pass_at is None else mean >= config.pass_at
    return Score((mean - config.low) / (config.high - config.low), passed, parts, reason)


async def ready(config: Config) -> None:
    """Have an answer rated. Raises RewardBroken where the judge cannot be asked."""
    row = {"prompt": "What is 2 + 2?", config.reference_column or "": "4"}
    prompt = _prompt(row, "4", config, _tasks(config)[0])
    await judge_for(config).ask(prompt, _form(config), afresh=True)


def gold(config: Config) -> Sequence[Example]:
    """None: a sound judge need not give its best rating to anything."""
    return []


def bad(config: Config) -> Sequence[Example]:
    return []


def _form(config: Config) -> Form:
    return Form("rating", tuple(range(config.low, config.high + 1)))


def _tasks(config: Config) -> list[str]:
    if not config.aspects:
        return [config.rubric]
    return [
        f"{config.rubric}\n\nRate this aspect of the answer alone, and no other: {name}. {meaning}"
        for name, meaning in config.aspects.items()
    ]


def _prompt(row: Mapping[str, Any], completion: str, config: Config, task: str) -> str:
    texts = {"question": question_of(row)}
    if config.reference_column is not None:
        texts["reference-answer"] = column_of(row, config.reference_column)
    texts["answer"] = completion
    scale = f"You rate the text `answer` from {config.low} (worst) to {config.high} (best)."
    if config.reference_column is not None:
        scale += " The text `reference-answer` is known to be right."
    ending = f"{scale} {_form(config).ending}"
    return judge_prompt(f"{task}\n\n{scale}", texts, ending, config.max_answer_characters)


def _rated(answers: Sequence[Judgement | BaseException]) -> tuple[dict[int, Judgement], float]:
    """The judgements by position, and what all answers cost. Raises what is worse than nonsense."""
    rated, cost = {}, 0.0
    for at, answer in enumerate(answers):
        if isinstance(answer, Judgement):
            rated[at] = answer
        elif not isinstance(answer, JudgeNonsense):
            raise answer
        cost += answer.cost
    return rated, cost
