"""Repetition: 1 minus the share of n-grams that were there before; 1 where none was.

    value = distinct n-grams / n-grams

As seq-rep-n of Welleck et al. 2020 (arXiv 1908.04319, section 6.1), turned round. Reads no column.
An answer of fewer than `n` words has no n-gram and scores 1; an empty one scores 0, or saying
nothing would pay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from posttrain.config.strict import StrictModel
from posttrain.reward.lengths import Unit, pieces, text_of_length
from posttrain.reward.protocol import Example
from posttrain.reward.verdict import wrong
from posttrain.types import Score

FORM_ONLY = True


class Config(StrictModel):
    """What counts as said twice."""

    n: int = Field(default=4, ge=1, le=100)
    """How many words (or characters) in a row are compared."""
    unit: Unit = "words"
    """What an n-gram is made of; characters for languages that write without blanks."""


def score(row: Mapping[str, Any], completion: str, config: Config) -> Score:
    """0.0 to 1.0."""
    parts = pieces(completion, config.unit)
    if not parts:
        return wrong("expected some text, found nothing")
    grams = max(len(parts) - config.n + 1, 0)
    distinct = len(set(zip(*(parts[i:] for i in range(config.n)), strict=False)))
    if distinct == grams:
        return Score(1.0)
    reason = f"{grams - distinct} of {grams} {config.n}-grams were there before"
    return Score(distinct / grams, reason=reason)


def gold(config: Config) -> Sequence[Example]:
    return [
        Example({}, "yes" if config.n > 1 or config.unit == "words" else "y"),
        Example({}, text_of_length(20, config.unit)),
    ]


def bad(config: Config) -> Sequence[Example]:
    loop = "ab " if config.unit == "characters" else "one two "
    return [Example({}, ""), Example({}, loop * 2 * (config.n + 1)), Example({}, "a " * 1_000)]
