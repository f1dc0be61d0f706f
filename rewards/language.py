"""The language that was asked for (IFEval, Zhou et al. 2023, arXiv 2311.07911, table 1): 1 or 0.

Reads the row's `language`, an ISO 639-1 code as langdetect gives it (`en`, `de`, `zh-cn`; `zh`
takes every kind of it); where the row has none, the settings' own stands in. A text that is in no
language, such as numbers alone, is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import field_validator

from posttrain.config.strict import StrictModel
from posttrain.errors import RewardBroken
from posttrain.reward.columns import text_of
from posttrain.reward.languages import KNOWN, language_of
from posttrain.reward.protocol import Example
from posttrain.reward.verdict import verdict
from posttrain.types import Score

FORM_ONLY = True


class Config(StrictModel):
    """Which language."""

    language: str | None = None
    """The code of the language for rows that have no `language` of their own."""

    @field_validator("language")
    @classmethod
    def _known(cls, language: str | None) -> str | None:
        if language is not None and not _is_known(language):
            raise ValueError(f"no such language; there are {', '.join(sorted(KNOWN))}")
        return language


def score(row: Mapping[str, Any], completion: str, config: Config) -> Score:
    """1.0 or 0.0. Raises RewardBroken for a language that is missing or cannot be told."""
    own = "language" in row or config.language is None
    expected = (text_of(row, "language") if own else str(config.language)).strip().lower()
    if not _is_known(expected):
        raise RewardBroken(
            f"the row's `language` is {expected!r:.40}, which cannot be told from others",
            help=f"codes: {', '.join(sorted(KNOWN))}",
        )
    found = language_of(completion)
    right = found is not None and expected in (found, found.partition("-")[0])
    return verdict(right, expected, found)


def _is_known(language: str) -> bool:
    return any(language in (known, known.partition("-")[0]) for known in KNOWN)


_ENGLISH = "The weather is fine today, and we are going to walk along the river after lunch."
_GERMAN = "Heute ist das Wetter schön, und wir gehen nach dem Mittagessen am Fluss spazieren."
_FRENCH = "Il fait beau aujourd'hui et nous allons nous promener au bord de la rivière."
_CHINESE = "今天天气很好我们打算吃完午饭以后去河边散步然后回家看书。"


def warm_up(config: Config) -> None:
    """The profiles of languages take a second to load."""
    language_of("a text")


def gold(config: Config) -> Sequence[Example]:
    return [
        Example({"language": "en"}, _ENGLISH),
        Example({"language": "de"}, _GERMAN),
        Example({"language": "fr"}, _FRENCH),
        Example({"language": "zh"}, _CHINESE),
    ]


def bad(config: Config) -> Sequence[Example]:
    return [
        Example({"language": "de"}, ""),
        Example({"language": "de"}, " ".join(map(str, range(101)))),
        Example({"language": "de"}, _ENGLISH),
        Example({"language": "en"}, _GERMAN),
        Example({"language": "de"}, f"Gerne! {_ENGLISH} {_ENGLISH}"),
    ]
