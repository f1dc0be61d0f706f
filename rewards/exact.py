"""Exact match (as of SQuAD, Rajpurkar et al. 2016, arXiv 1606.05250): 1 where the text is the same.

Reads the row's `answer`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.config.strict import StrictModel
from posttrain.reward.columns import text_of
from posttrain.reward.protocol import Example
from posttrain.reward.verdict import verdict
from posttrain.types import Score


class Config(StrictModel):
    """What is forgiven."""

    ignore_case: bool = False
    """Whether large and small letters count as the same."""
    strip: bool = True
    """Whether blanks and line ends around the answer are forgiven."""


def score(row: Mapping[str, Any], completion: str, config: Config) -> Score:
    """1.0 or 0.0. Raises RewardBroken for a row without `answer`."""
    truth, found = text_of(row, "answer"), completion
    if config.strip:
        truth, found = truth.strip(), found.strip()
    if config.ignore_case:
        truth, found = truth.casefold(), found.casefold()
    return verdict(truth == found, truth, found)


def gold(config: Config) -> Sequence[Example]:
    examples = [Example({"answer": "New York"}, "New York")]
    if config.strip:
        examples.append(Example({"answer": "New York\n"}, "  New York"))
    if config.ignore_case:
        examples.append(Example({"answer": "New York"}, "new york"))
    return examples


def bad(config: Config) -> Sequence[Example]:
    examples = [
        Example({"answer": "New York"}, ""),
        Example({"answer": "New York"}, "New  York"),
        Example({"answer": "New York"}, "New York, New York"),
    ]
    if not config.strip:
        examples.append(Example({"answer": "New York"}, "New York\n"))
    if not config.ignore_case:
        examples.append(Example({"answer": "New York"}, "new york"))
    return examples
