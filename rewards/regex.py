"""A regular expression: 1 where it is found in the answer, else 0.

Reads the row's `pattern`; where the row has none, the settings' own stands in. Patterns are those
of the `regex` package, which can be told to stop: one that backtracks for too long is the pattern's
fault, not the answer's, and raises RewardBroken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import regex
from pydantic import Field, field_validator

from posttrain.config.strict import StrictModel
from posttrain.errors import RewardBroken
from posttrain.reward.columns import text_of
from posttrain.reward.protocol import Example
from posttrain.reward.verdict import verdict
from posttrain.types import Score


class Config(StrictModel):
    """What is looked for, and how."""

    pattern: str | None = None
    """The pattern for rows that have no `pattern` of their own."""
    whole: bool = False
    """Whether the pattern has to cover the whole answer, blanks around it aside."""
    ignore_case: bool = False
    """Whether large and small letters count as the same."""
    seconds: float = Field(default=1.0, gt=0)
    """How long one search may take before the pattern counts as broken."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                regex.compile(pattern)
            except regex.error as error:
                raise ValueError(f"no regular expression: {error}") from error
        return pattern


def score(row: Mapping[str, Any], completion: str, config: Config) -> Score:
    """1.0 or 0.0. Raises RewardBroken for a pattern that is missing, malformed or too slow."""
    own = "pattern" in row or config.pattern is None
    pattern = text_of(row, "pattern") if own else str(config.pattern)
    try:
        compiled = regex.compile(pattern, regex.IGNORECASE if config.ignore_case else 0)
        search = compiled.fullmatch if config.whole else compiled.search
        found = search(completion.strip(), timeout=config.seconds)
    except regex.error as error:
        raise RewardBroken(f"{pattern!r:.80} is no regular expression: {error}") from error
    except (TimeoutError, MemoryError) as error:
        raise RewardBroken(
            f"{pattern!r:.80} was not decided within {config.seconds:g} s",
            help="write it so that it backtracks less: possessive `++`, atomic `(?>...)`",
        ) from error
    return verdict(found is not None, f"/{pattern}/", completion)


def gold(config: Config) -> Sequence[Example]:
    return [
        Example({"pattern": r"\d{4}-\d{2}-\d{2}"}, " 2024-02-29\n"),
        Example({"pattern": "(?:yes|no)"}, "YES" if config.ignore_case else "yes"),
        Example({"pattern": r"(?s).*The answer is \d+\."}, "Well.\nThe answer is 7."),
    ]


def bad(config: Config) -> Sequence[Example]:
    return [
        Example({"pattern": r"\d{4}-\d{2}-\d{2}"}, ""),
        Example({"pattern": r"\d{4}-\d{2}-\d{2}"}, "2024-2-29"),
        Example({"pattern": r"^\d+$"}, "7 or 8"),
        Example({"pattern": "colou?r"}, "colouur"),
    ]
