"""The best and the worst answer to a prompt become a comparison, on-policy.

    (argmax score, argmin score), where the two scores differ by more than `min_margin`

The usual way to make preference data of a model's own answers (Tülu 3, Lambert et al. 2024, arXiv
2411.15124, section 5.2; SPIN and RLAIF pipelines do alike). Of equal scores the earlier answer
counts. Where all answers score alike the prompt teaches nothing and gives no row.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from posttrain.config.strict import StrictModel
from posttrain.selection import PAIR, Candidate

COLUMNS = PAIR
NEEDS_SCORES = True


class Config(StrictModel):
    """How far apart the two have to be."""

    min_margin: float = Field(default=0.0, ge=0.0)
    """Pairs whose scores differ by no more than this are left out: the judge could not tell. In the
    units of the reward; of an ensemble 1 is how far ordinary answers differ."""


def select(candidates: Sequence[Candidate], config: Config) -> list[tuple[Candidate, Candidate]]:
    """One pair, or none."""
    best = max(candidates, key=lambda each: each.score)
    worst = min(candidates, key=lambda each: each.score)
    return [(best, worst)] if best.score - worst.score > config.min_margin else []
