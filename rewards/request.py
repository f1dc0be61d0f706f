"""The micro world's gold reward: what people there really want of an answer to a request.

It plays the people of whom real data has only comparisons (`microworld/preferences`), so that
chasing a learned reward can be told from pleasing them. The rule is in `posttrain.microworld`; half
of it is which of the wanted letters occur, the rest variety and length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.config.strict import StrictModel
from posttrain.errors import RewardBroken
from posttrain.microworld import gold_reward
from posttrain.reward.protocol import Example
from posttrain.types import Score


class Config(StrictModel):
    """The gold reward has no settings."""


def score(row: Mapping[str, Any], completion: str, config: Config) -> Score:
    """0 to 1. Raises RewardBroken where the row is no request."""
    request = row.get("prompt")
    if not isinstance(request, str) or not request.startswith("write "):
        raise RewardBroken(
            f"`prompt` is {request!r:.40}, no request of the micro world",
            help="data: microworld/requests",
        )
    return Score(gold_reward(request, completion))


def gold(config: Config) -> Sequence[Example]:
    """Every wanted letter, no two alike side by side, eight letters."""
    return [Example({"prompt": "write ceg="}, "cegabceg")]


def bad(config: Config) -> Sequence[Example]:
    """Repetition, a missing letter, too many letters, something else than letters, nothing."""
    answers = ("cegggggg", "ceceacec", "cegabcegcegabceg", "ceg, abc", "")
    return [Example({"prompt": "write ceg="}, answer) for answer in answers]
