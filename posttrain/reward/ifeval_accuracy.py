"""IFEval's four numbers: by prompt and by instruction, strict and loose (Zhou et al. 2023, §3).

    prompt level        the share of prompts whose instructions are all followed
    instruction level   the share of instructions followed, over all prompts

Every score of the reward `ifeval` carries what they are summed from, in its parts: how many
instructions were `asked`, how many followed (`followed/strict`, `followed/loose`). So one set of
answers gives all four, whichever of them decides the score.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.reward.constraints.following import Followed, followed

ASKED = "asked"
STRICT = "followed/strict"
LOOSE = "followed/loose"


@dataclass(frozen=True, slots=True)
class IfevalAccuracy:
    """Shares 0..1, and of how many.

    Example: IfevalAccuracy(0.5, 0.5, 0.75, 0.75, prompts=2, instructions=4)
    """

    prompt_strict: float
    prompt_loose: float
    instruction_strict: float
    instruction_loose: float
    prompts: int
    instructions: int


def counts(of: Followed) -> dict[str, float]:
    """One answer's three counts, as parts of its score."""
    asked, strict, loose = len(of.ids), sum(of.strict), sum(of.loose)
    return {ASKED: float(asked), STRICT: float(strict), LOOSE: float(loose)}


def accuracy(parts: Iterable[Mapping[str, float]]) -> IfevalAccuracy:
    """The four numbers from the parts of the scores of any answers. Raises ValueError without any.

    Raises KeyError for parts of another reward.
    """
    each = [(part[ASKED], part[STRICT], part[LOOSE]) for part in parts]
    if not each:
        raise ValueError("no answers to average over")
    instructions = sum(asked for asked, _, _ in each)
    return IfevalAccuracy(
        prompt_strict=sum(strict == asked for asked, strict, _ in each) / len(each),
        prompt_loose=sum(loose == asked for asked, _, loose in each) / len(each),
        instruction_strict=sum(strict for _, strict, _ in each) / instructions,
        instruction_loose=sum(loose for _, _, loose in each) / instructions,
        prompts=len(each),
        instructions=int(instructions),
    )


def accuracy_of(rows: Sequence[Mapping[str, Any]], answers: Sequence[str]) -> IfevalAccuracy:
    """The four numbers of one answer per row. Raises RewardBroken for a row that makes no sense."""
    pairs = zip(rows, answers, strict=True)
    return accuracy(counts(followed(row, answer)) for row, answer in pairs)
