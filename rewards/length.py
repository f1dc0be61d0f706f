"""Length within bounds: 1 from `low` to `high`, falling linearly outside them, to 0.

Reads no column. Below `low` it falls to 0 at nothing, above `high` to 0 at twice `high`. Lengths
are words or characters: a reward sees the text, not its tokens.
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
    """The bounds."""

    low: int = Field(default=1, ge=0)
    """The shortest answer that scores 1."""
    high: int = Field(default=200, ge=1)
    """The longest answer that scores 1."""
    unit: Unit = "words"
    """What is counted: words, or characters without the blanks around the answer."""

    @model_validator(mode="after")
    def _in_order(self) -> Config:
        if self.low > self.high:
            raise Contradiction(
                f"low: {self.low} is above high: {self.high}", help=f"high: {self.low} or more"
            )
        return self


def score(row: Mapping[str, Any], completion: str, config: Config) -> Score:
    """0.0 to 1.0."""
    length = length_in(completion, config.unit)
    if config.low <= length <= config.high:
        return Score(1.0, passed=True)
    value = length / config.low if length < config.low else 2.0 - length / config.high
    reason = f"expected {config.low} to {config.high} {config.unit}, found {length}"
    return Score(max(value, 0.0), passed=False, reason=reason)


def gold(config: Config) -> Sequence[Example]:
    bounds = {config.low, config.high, (config.low + config.high) // 2}
    return [Example({}, text_of_length(length, config.unit)) for length in sorted(bounds)]


def bad(config: Config) -> Sequence[Example]:
    lengths = [config.high + 1, 2 * config.high + 1]
    if config.low > 0:
        lengths += [0, config.low - 1]
    return [Example({}, text_of_length(length, config.unit)) for length in lengths]
