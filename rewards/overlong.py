"""DAPO's soft overlong punishment (Yu et al. 2025, arXiv 2503.14476, section 3.4), as a score.

    value = 1                          where length <= cap - buffer
          = (cap - length) / buffer    where cap - buffer < length <= cap
          = 0                          where length > cap

The paper's punishment is value - 1, from 0 to -1; a score lies between 0 and 1, and a constant is
nothing to an advantage. Reads no column. The paper counts tokens; a reward sees only the text, so
`cap` and `buffer` are in words or characters. An empty answer is short and scores 1: use it beside
a reward for being right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, model_validator

from posttrain.config.strict import Contradiction, StrictModel
from posttrain.reward.lengths import Unit, length_in, text_of_length
from posttrain.reward.protocol import Example
from posttrain.types import Score

FORM_ONLY = True


class Config(StrictModel):
    """How long is too long."""

    cap: int = Field(default=2_000, ge=1)
    """The length from which on an answer scores 0 (the paper's L_max)."""
    buffer: int = Field(default=400, ge=1)
    """Over how much before `cap` the score falls (the paper's L_cache)."""
    unit: Unit = "words"
    """What is counted: words, or characters without the blanks around the answer."""

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.buffer > self.cap:
            raise Contradiction(
                f"buffer: {self.buffer} is above cap: {self.cap}", help=f"buffer: {self.cap // 5}"
            )
        return self


def score(row: Mapping[str, Any], completion: str, config: Config) -> Score:
    """0.0 to 1.0."""
    length = length_in(completion, config.unit)
    value = min(max((config.cap - length) / config.buffer, 0.0), 1.0)
    if value == 1.0:
        return Score(1.0, passed=True)
    allowed = config.cap - config.buffer
    reason = f"expected at most {allowed} {config.unit}, found {length}"
    return Score(value, passed=False, reason=reason)


def gold(config: Config) -> Sequence[Example]:
    allowed = config.cap - config.buffer
    return [Example({}, text_of_length(length, config.unit)) for length in (0, allowed)]


def bad(config: Config) -> Sequence[Example]:
    lengths = (config.cap - config.buffer + 1, config.cap, 2 * config.cap)
    return [Example({}, text_of_length(length, config.unit)) for length in lengths]
