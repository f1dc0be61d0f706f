"""An ensemble of reward models as one reward, cautious where its members disagree.

    reward: {ensemble: rm, combine: uwo, uwo_weight: 0.5}

`rm` is a reward_model stage. mean: R = mean of the members. wco: the least of them. uwo: R = mean
- uwo_weight · variance over the members (Coste et al. 2024, arXiv 2310.02743, section 3). Members'
scores are standardised with their own mean and deviation of held-out answers; an answer like those
scores about 0.

`fuse: 5` is RewardFusion (Shen et al. 2023, arXiv 2309.16155): each member's score is the mean over
the prompt that was asked and at most five of its training that are much like it, weighted by how
much. So a prompt worded oddly is scored as its neighbours would be; it costs as many times the
scoring as there are neighbours.

Degenerate: members that start from the same model share its blind spots, and agree on what all of
them get wrong. The members' spread is in the part `members_std`: where it grows, the policy has
left what the comparisons were about.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, pvariance
from typing import Any, Literal

from pydantic import Field

from posttrain.config.plugin import EnsembleName
from posttrain.config.strict import StrictModel
from posttrain.errors import RewardBroken
from posttrain.reward.protocol import Example
from posttrain.types import MEMBERS_STD, SCORES_COLUMN, Score, scores_key


class Config(StrictModel):
    """Which reward models, and how their scores become one."""

    ensemble: EnsembleName
    """The reward_model stage whose members score."""
    combine: Literal["mean", "wco", "uwo"] = "uwo"
    """mean: what they say on average. wco: the worst case, the lowest score. uwo: the average less
    `uwo_weight` times their variance."""
    uwo_weight: float = Field(default=0.5, ge=0)
    """λ of uwo."""
    members: int | None = Field(default=None, gt=0)
    """Only the first so many members score, to see what an ensemble is worth: 1 is a single reward
    model. All of them where not given."""
    # Not told where it is not asked for: identities of stages without stay what they were.
    fuse: int = Field(default=0, ge=0, le=64, exclude_if=lambda value: value == 0)
    """Answers are also scored after so many prompts of training that are most like the one asked,
    and the scores averaged; 0: after that one alone."""


def score(row: Mapping[str, Any], completion: str, config: Config) -> Score:
    """The combined score. Raises RewardBroken where there is none, or a member's is not finite."""
    scores = row.get(SCORES_COLUMN, {}).get(scores_key(config.ensemble, config.fuse))
    if not scores:
        raise RewardBroken(
            f"there are no scores of `{config.ensemble}`",
            help="`fuse` reaches the policy's answers, not those of the row's own"
            if config.fuse
            else "reward models score in online_rl, generate and best_of_n stages",
        )
    members = scores[: config.members]
    if config.members is not None and len(members) < config.members:
        raise RewardBroken(
            f"`{config.ensemble}` has {len(scores)} members, and {config.members} are asked for",
            help=f"members: {len(scores)}, or leave it out",
        )
    for number, value in enumerate(members):
        if not math.isfinite(value):
            raise RewardBroken(f"member {number} of `{config.ensemble}` scores {value}")
    variance = pvariance(members)
    value = {
        "mean": fmean(members),
        "wco": min(members),
        "uwo": fmean(members) - config.uwo_weight * variance,
    }[config.combine]
    return Score(value, parts={MEMBERS_STD: math.sqrt(variance)})


def fused_scores(config: Config) -> Sequence[tuple[str, int]]:
    """Which stage's scores have to be fused over how many prompts of its training."""
    return [(config.ensemble, config.fuse)] if config.fuse else []


def gold(config: Config) -> Sequence[Example]:
    """Members that agree on 1."""
    return [Example(_with_scores(config, [1.0, 1.0, 1.0]), "an answer")]


def bad(config: Config) -> Sequence[Example]:
    """A low score, and one high score beside lower ones."""
    scores = ([0.2, 0.1, 0.3], [-1.0, 0.4, 2.4])
    return [Example(_with_scores(config, each), "an answer") for each in scores]


def _with_scores(config: Config, members: Sequence[float]) -> Mapping[str, Any]:
    return {SCORES_COLUMN: {scores_key(config.ensemble, config.fuse): members}}
