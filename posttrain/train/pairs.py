"""Comparisons as tensors: rows of several answers, padded together, in parts under a token budget.

A batch of B comparisons with S answers each is [S·B, T]: all first answers, then all second ones,
as TRL's trainers want chosen and rejected ones. Tensors of one number per comparison are [B], or
[B, S].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from posttrain.errors import InputError, Problem

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RenderedPair:
    """One comparison as token ids.

    Example: RenderedPair({"chosen": ((5, 3), (9, 1)), "rejected": ((5, 3), (8, 1))}, "pairs:7")
    """

    answers: Mapping[str, tuple[Ids, Ids]]  # name -> (what stands before the answer, the answer)
    place: str  # of the row, for people

    def length(self, name: str) -> int:
        """Tokens of an answer with all that stands before it."""
        context, answer = self.answers[name]
        return len(context) + len(answer)


def rotated(pairs: Sequence[RenderedPair], borrowed: Mapping[str, str]) -> list[RenderedPair]:
    """The pairs with more answers: those of each one's successor, after its own prompt.

    `borrowed`: new name -> name of the successor's answer. The last pair's successor is the first.
    """
    followers = [*pairs[1:], *pairs[:1]]
    return [
        RenderedPair(
            {
                **pair.answers,
                **{
                    new: (pair.answers["chosen"][0], follower.answers[name][1])
                    for new, name in borrowed.items()
                },
            },
            pair.place,
        )
        for pair, follower in zip(pairs, followers, strict=True)
    ]


def padded(sequences: Sequence[tuple[Ids, Ids]], pad_id: int) -> dict[str, Tensor]:
    """input_ids, attention_mask and completion_mask (1 at tokens of the answer), each [N, T]."""
    longest = max(len(context) + len(answer) for context, answer in sequences)
    ids = torch.full((len(sequences), longest), pad_id)
    attention, completion = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, (context, answer) in enumerate(sequences):
        end = len(context) + len(answer)
        ids[row, :end] = torch.tensor([*context, *answer])
        attention[row, :end] = 1
        completion[row, len(context) : end] = 1
    return {"input_ids": ids, "attention_mask": attention, "completion_mask": completion}


def split_pairs(
    inputs: Mapping[str, Tensor], budget_tokens: int, num_answers: int, min_parts: int = 1
) -> Iterator[tuple[dict[str, Tensor], float]]:
    """(part, its share of the comparisons) of a padded batch, comparisons of like length together.

    A part holds `budget_tokens` at most, padding counted; columns that are padding only are cut
    off. Raises InputError where one comparison exceeds the budget.
    """
    longest = longest_answers(inputs, num_answers)
    num_pairs = len(longest)
    for members in group_by_length(longest, budget_tokens // num_answers, min_parts):
        index = torch.tensor(members)
        width = max(longest[i] for i in members)
        rows = torch.cat([index + answer * num_pairs for answer in range(num_answers)])
        yield (
            {
                name: tensor[rows.to(tensor.device), :width]
                if name in PADDED
                else tensor[index.to(tensor.device)]
                for name, tensor in inputs.items()
            },
            len(members) / num_pairs,
        )


PADDED = ("input_ids", "attention_mask", "completion_mask")


def longest_answers(inputs: Mapping[str, Tensor], num_answers: int) -> list[int]:
    """[B] tokens of the longest answer of each comparison, with its prompt."""
    lengths_SB = inputs["attention_mask"].sum(dim=1).view(num_answers, -1)
    return [int(each) for each in lengths_SB.max(dim=0).values]


def group_by_length(
    lengths: Sequence[int], budget_tokens: int, min_groups: int = 1
) -> list[list[int]]:
    """Indices in groups, longest first, such that a group's number times its longest is within the
    budget; `min_groups` or more, as far as there are indices. Raises InputError where one alone is
    over the budget.

    Example: lengths 9 2 4 3, budget 12 -> {9}, {4, 3, 2}.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    groups: list[list[int]] = []
    width = 0
    for index in order:
        if groups and (len(groups[-1]) + 1) * width <= budget_tokens:
            groups[-1].append(index)
            continue
        width = lengths[index]
        if width > budget_tokens:
            raise InputError(too_long(width, budget_tokens))
        groups.append([index])
    while len(groups) < min(min_groups, len(lengths)):
        largest = max(groups, key=len)
        groups.append(largest[len(largest) // 2 :])
        del largest[len(largest) // 2 :]
    return groups


def require_budget(pairs: Sequence[RenderedPair], budget_tokens: int, num_answers: int) -> None:
    """A comparison that no micro-batch can hold is found before the first step."""
    longest = max((pair.length(name) for pair in pairs for name in pair.answers), default=0)
    if longest > budget_tokens // num_answers:
        raise InputError(too_long(longest, budget_tokens // num_answers, num_answers))


def too_long(length: int, room: int, num_answers: int = 1) -> Problem:
    return Problem(
        "micro-batch-too-small",
        f"one answer with its prompt has {length} tokens, a micro-batch has room for {room} of "
        "each answer of a comparison",
        path="batch.tokens_per_micro_batch",
        help=f"tokens_per_micro_batch: {length * num_answers} or more",
    )
