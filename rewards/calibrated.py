"""How likely an answer beats the row's own: σ of the difference of their rewards, between 0 and 1.

    R = σ(r(x, y) - r(x, baseline))

The calibrated reward of CGPO (Xu et al. 2024, arXiv 2409.20370, section 4), with r a reward model's
score and the baseline an answer that is known to be good, such as the one of SFT. Under the
Bradley-Terry model that reward models are trained by, it is the probability that people prefer y.
Raw scores are comparable within a prompt only; these are across prompts, and 0.5 is as good as the
row's answer.

    reward:
      combine: gated
      score: {name: calibrated, score: {ensemble: rm, combine: mean}}
      judges:
        short: {name: length, high: 400}

Degenerate cases: with a verifier as `score`, whose values are 0 and 1, little is left of its range:
0.27, 0.5 and 0.73. A baseline that is far worse than all answers gives all of them about 1.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.config.plugin import RewardPlugin
from posttrain.config.strict import StrictModel
from posttrain.reward.columns import text_of
from posttrain.reward.parts import scored
from posttrain.reward.protocol import Example
from posttrain.types import BASELINE_SCORES_COLUMN, SCORES_COLUMN, Score


class Config(StrictModel):
    """What is calibrated, and by which answer."""

    score: RewardPlugin
    """The reward of both answers."""
    baseline_column: str = "completion"
    """The row's column with the answer to compare with."""


async def score(row: Mapping[str, Any], completion: str, config: Config) -> Score:
    """σ of the difference; RewardBroken where the row has no baseline, or either breaks."""
    baseline = text_of(row, config.baseline_column)
    scores = row.get(BASELINE_SCORES_COLUMN, {}).get(config.baseline_column, {})
    ours, theirs = await asyncio.gather(
        scored(config.score, row, completion),
        scored(config.score, {**row, SCORES_COLUMN: scores}, baseline),
    )
    margin = ours.value - theirs.value
    parts = {**ours.parts, "baseline_margin": margin}
    return Score(0.5 * (1.0 + math.tanh(0.5 * margin)), ours.passed, parts, ours.reason)


def baseline_columns(config: Config) -> Sequence[str]:
    """Reward models score the answer there, too."""
    return [config.baseline_column]


def gold(config: Config) -> Sequence[Example]:
    """None of its own: its part proves itself, and no difference gives exactly 1."""
    return []


def bad(config: Config) -> Sequence[Example]:
    return []
