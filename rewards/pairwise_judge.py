"""A model compares the answer with the row's baseline: 1 where it is better, 0 where worse.

Judges prefer what they read first (or last), so that both orders are asked (Zheng et al. 2023,
arXiv 2306.05685, section 3.4): 1 where the answer wins both, 0 where it loses both, else 0.5. The
mean over a batch is a win rate with half points for ties.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.reward.judging.client import Judgement, judge_for
from posttrain.reward.judging.form import Form
from posttrain.reward.judging.settings import JudgeSettings
from posttrain.reward.judging.wording import column_of, judge_prompt, question_of
from posttrain.reward.protocol import Example
from posttrain.types import Score

FORM = Form("better", ("A", "B", "tie"))
RUBRIC = (
    "Which of two answers to the question is better? Better answers are right, do what was asked, "
    "say what is needed and no more, and claim nothing that is not so. Neither the order in which "
    "they stand nor their length counts."
)


class Config(JudgeSettings):
    """Which judge, and what the answer is compared with."""

    rubric: str = RUBRIC
    """What makes an answer better, told to the judge in front of everything else."""
    baseline_column: str = "baseline"
    """The row's column with the answer to compare with."""


async def score(row: Mapping[str, Any], completion: str, config: Config) -> Score:
    """1, 0.5 or 0. Raises RewardBroken where one of the two orders is not judged."""
    baseline = column_of(row, config.baseline_column)
    first, second = await asyncio.gather(
        _compare(row, completion, baseline, config), _compare(row, baseline, completion, config)
    )
    verdicts = (_points(first.choice, "A"), _points(second.choice, "B"))
    consistent = verdicts[0] == verdicts[1]
    value = verdicts[0] if consistent else 0.5
    parts = {
        "order_consistent": float(consistent),
        "judging/cost": first.cost + second.cost,
        "judging/cached": (first.cached + second.cached) / 2,
    }
    reason = first.reason if consistent else f"the orders differ: {first.reason} | {second.reason}"
    return Score(value, value == 1.0, parts, reason)


async def ready(config: Config) -> None:
    """Have two answers compared. Raises RewardBroken where the judge cannot be asked."""
    await _compare({"prompt": "What is 2 + 2?"}, "4", "5", config, afresh=True)


def gold(config: Config) -> Sequence[Example]:
    """None: a sound judge may see a tie in anything."""
    return []


def bad(config: Config) -> Sequence[Example]:
    return []


async def _compare(
    row: Mapping[str, Any], a: str, b: str, config: Config, *, afresh: bool = False
) -> Judgement:
    texts = {"question": question_of(row), "A": a, "B": b}
    ending = f"You say which of the texts `A` and `B` is the better answer, or tie. {FORM.ending}"
    prompt = judge_prompt(config.rubric, texts, ending, config.max_answer_characters)
    return await judge_for(config).ask(prompt, FORM, afresh=afresh)


def _points(choice: float | str, ours: str) -> float:
    if choice == "tie":
        return 0.5
    return 1.0 if choice == ours else 0.0
