"""Every answer becomes a row: a data set of samples, to score or to choose from later."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.config.strict import StrictModel
from posttrain.selection import COMPLETION, Candidate

COLUMNS = COMPLETION


class Config(StrictModel):
    """There is nothing to set."""


def select(candidates: Sequence[Candidate], config: Config) -> list[Candidate]:
    """All of them, in order."""
    return list(candidates)
