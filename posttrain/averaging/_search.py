"""What searches for coefficients share: batches of sequences in a fixed random order."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from posttrain.errors import InputError, Problem
from posttrain.ports import Answered


def with_answers(sequences: Sequence[Answered]) -> list[Answered]:
    """Those with a token to look at: one of an answer, with another before it.

    Raises InputError (`empty-data`) where there are none.
    """
    found = [each for each in sequences if len(each[1]) and len(each[0]) + len(each[1]) > 1]
    if not found:
        message = "no answers to find coefficients on"
        raise InputError(Problem("empty-data", message, help="answers of the trained model"))
    return found


def batches(
    sequences: Sequence[Answered], size: int, num_batches: int, seed: int
) -> Iterator[list[Answered]]:
    """So many batches: pass after pass over the sequences, each in an order of its own."""
    order = random.Random(seed)
    waiting: list[Answered] = []
    for _ in range(num_batches):
        while len(waiting) < min(size, len(sequences)):
            waiting += order.sample(list(sequences), len(sequences))
        yield waiting[:size]
        waiting = waiting[size:]


def in_order(sequences: Sequence[Answered], size: int) -> Iterator[Sequence[Answered]]:
    """Every sequence once."""
    for start in range(0, len(sequences), size):
        yield sequences[start : start + size]
