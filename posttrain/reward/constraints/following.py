"""Which of a row's constraints an answer follows, strictly and loosely.

*Loosely* as the benchmark has it: also without the first line ("Sure, here it is:"), without the
last, without both, and each of these without its `*`. A constraint is followed loosely where one of
the eight texts follows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from posttrain.reward.answers import without_thinking
from posttrain.reward.constraints.rows import constraints_of


@dataclass(frozen=True, slots=True)
class Followed:
    """What one answer follows, one entry per instruction of its row.

    Example: Followed(("punctuation:no_comma", "startend:quotation"), (True, False), (True, True))
    """

    ids: tuple[str, ...]
    strict: tuple[bool, ...]
    loose: tuple[bool, ...]


def followed(row: Mapping[str, Any], completion: str) -> Followed:
    """Every constraint of the row on the answer, without its thinking.

    Raises RewardBroken for a row whose constraints make no sense.
    """
    constraints = constraints_of(row)
    answer = without_thinking(completion).lstrip()
    strict = tuple(constraint.holds(answer) for constraint in constraints)
    others = loose_variants(answer) if not all(strict) else ()
    loose = tuple(
        done or any(constraint.holds(text) for text in others)
        for constraint, done in zip(constraints, strict, strict=True)
    )
    return Followed(tuple(constraint.id for constraint in constraints), strict, loose)


def loose_variants(answer: str) -> tuple[str, ...]:
    """The seven other texts that a loose reading allows, each once; empty ones are left out."""
    lines = answer.split("\n")
    cuts = ["\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
    texts = [*cuts, *(text.replace("*", "") for text in (answer, *cuts))]
    return tuple(dict.fromkeys(text for text in texts if text.strip() and text != answer))
