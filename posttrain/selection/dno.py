"""The pairs of Direct Nash Optimization in its practical form (Rosset et al. 2024, arXiv
2404.03715, section 4): answers of the policy and one of a teacher, each judged by itself.

    winner scores `min_chosen` or more
    loser  scores `gap` less than the winner, or `gap_of_own` where the winner is the policy's

A teacher's answer is a higher bar, so the policy beating it counts sooner; it may also lose. The
teacher's answer is the row's `completion`; without one only the policy's are compared. All pairs
that fulfil this become rows, those of equal text not; a prompt without one gives none. The paper
judges on a scale of 1 to 6, which the defaults are for. Old pairs are replayed by naming earlier
`generate` stages under `data.mix`; their reference log-probs are made anew by every stage.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from posttrain.config.strict import StrictModel
from posttrain.selection import PAIR, Candidate

COLUMNS = PAIR
NEEDS_SCORES = True
OWN_ANSWER = "completion"


class Config(StrictModel):
    """In points of the judge's scale."""

    min_chosen: float = 5.0
    """The least score of a winner."""
    gap: float = Field(default=2.0, gt=0)
    """How much less a loser scores than the teacher's answer that beats it."""
    gap_of_own: float = Field(default=1.0, gt=0)
    """How much less a loser scores than the policy's answer that beats it."""


def select(candidates: Sequence[Candidate], config: Config) -> list[tuple[Candidate, Candidate]]:
    """Every pair, by the winner's place, then the loser's.

    Example: policy 6, 4, 3 and teacher 5 give (6, 4), (6, 3), (6, 5) and (5, 3).
    """
    return [
        (winner, loser)
        for winner in candidates
        if winner.score >= config.min_chosen
        for loser in candidates
        if winner.text != loser.text
        and winner.score - loser.score >= (config.gap_of_own if winner.of_policy else config.gap)
    ]
