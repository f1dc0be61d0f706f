"""The best answers become rows to imitate: rejection sampling, or best-of-n distillation.

    keep the `count` answers of the highest score, of those that reach `min_score`

Fine-tuning on them moves the model towards its own best-of-n policy (RAFT, Dong et al. 2023, arXiv
2304.06767; the rejection sampling of Llama 2, Touvron et al. 2023, arXiv 2307.09288, section 3.2).
The same text counts once; of equal scores the earlier answer comes first. Where no answer reaches
`min_score` the prompt gives no row.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from posttrain.config.strict import StrictModel
from posttrain.selection import COMPLETION, Candidate

COLUMNS = COMPLETION
NEEDS_SCORES = True


class Config(StrictModel):
    """How many, and how good."""

    count: int = Field(default=1, gt=0)
    """Different answers kept per prompt, the best first."""
    min_score: float | None = None
    """Answers below are never kept; a verifier's right answer scores 1."""


def select(candidates: Sequence[Candidate], config: Config) -> list[Candidate]:
    """At most `count` candidates, by falling score."""
    first: dict[str, Candidate] = {}
    for each in candidates:
        first.setdefault(each.text, each)
    good = [
        each
        for each in first.values()
        if config.min_score is None or each.score >= config.min_score
    ]
    return sorted(good, key=lambda each: -each.score)[: config.count]
