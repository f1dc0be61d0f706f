"""Comparisons as tensors: rows of several answers, padded together, in parts under a token budget.

A batch of B comparisons with S answers each is [S·B, T]: all first answers, then all second ones,
as TRL's trainers want chosen and rejected ones. Tensors of one number per comparison are [B], or
[B, S].
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from posttrain.errors import InputError, Problem
from posttrain.train.offline import LARGEST_HOLDOUT

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RenderedPair:
    """One comparison as token ids; or one answer that is good or bad.

    Example: RenderedPair({"chosen": ((5, 3), (9, 1)), "rejected": ((5, 3), (8, 1))})
    """

    answers: Mapping[str, tuple[Ids, Ids]]  # name -> (what stands before the answer, the answer)
    variants: tuple[RenderedPair, ...] = ()  # the same answers after other wordings of the prompt
    good: bool | None = None  # of a judged answer

    @property
    def prompt(self) -> Ids:
        """What stands before the first answer."""
        return next(iter(self.answers.values()))[0]

    def length(self, name: str) -> int:
        """Tokens of an answer with all that stands before it."""
        context, answer = self.answers[name]
        return len(context) + len(answer)


def hold_out_pairs(
    pairs: Sequence[RenderedPair], count: int, seed: int
) -> tuple[list[RenderedPair], list[RenderedPair]]:
    """(pairs to train on, pairs held out): whole prompts are held out, in an order that the seed
    gives, until that are `count` pairs or a fifth of all. So none is measured on a prompt that was
    trained on.
    """
    most = min(count, int(LARGEST_HOLDOUT * len(pairs)))
    sizes = Counter(pair.prompt for pair in pairs)
    prompts = sorted(sizes)
    random.Random(f"{seed}/holdout").shuffle(prompts)
    chosen: set[Ids] = set()
    held = 0
    for prompt in prompts:
        if held + sizes[prompt] <= most:
            chosen.add(prompt)
            held += sizes[prompt]
    training = [pair for pair in pairs if pair.prompt not in chosen]
    return training, [pair for pair in pairs if pair.prompt in chosen]


def with_mismatched(
    pairs: Sequence[RenderedPair], borrowed: Mapping[str, str]
) -> list[RenderedPair]:
    """The pairs with answers that do not belong to them, after their own prompts.

    `borrowed`: new name -> name of the answer to take, of the next pair with another prompt (of the
    next one where there is no other). It is cut to the length that the longest pair has.
    """
    longest = max((pair.length(name) for pair in pairs for name in pair.answers), default=0)
    found = []
    for number, pair in enumerate(pairs):
        following = (pairs[(number + step) % len(pairs)] for step in range(1, len(pairs)))
        next_one = pairs[(number + 1) % len(pairs)]
        other = next((each for each in following if each.prompt != pair.prompt), next_one)
        room = longest - len(pair.prompt)
        taken = {new: (pair.prompt, other.answers[n][1][:room]) for new, n in borrowed.items()}
        found.append(replace(pair, answers={**pair.answers, **taken}))
    return found


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
    inputs: Mapping[str, Tensor], groups: Sequence[Sequence[int]], num_answers: int
) -> Iterator[tuple[dict[str, Tensor], float]]:
    """(part, its share of the comparisons) of a padded batch, one for each group of comparisons.

    Columns that are padding only are cut off.
    """
    longest = longest_answers(inputs, num_answers)
    num_pairs = len(longest)
    for members in groups:
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
    lengths: Sequence[int],
    budget_tokens: int,
    longest_of_all: Callable[[list[int]], list[int]] = lambda sizes: sizes,
) -> list[list[int]]:
    """Indices in groups, longest first, such that a group's number times its longest is within the
    budget. Raises InputError where one alone is not.

    `longest_of_all` is handed the lengths, longest first, and gives the largest of all ranks at
    each place: then every rank has groups of the same sizes.

    Example: lengths 9 2 4 3, budget 12 -> {9}, {4, 3, 2}.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    sizes = longest_of_all([lengths[i] for i in order])
    groups: list[list[int]] = []
    width = 0
    for index, size in zip(order, sizes, strict=True):
        if groups and (len(groups[-1]) + 1) * width <= budget_tokens:
            groups[-1].append(index)
            continue
        width = size
        if width > budget_tokens:
            raise InputError(over_budget(width, budget_tokens))
        groups.append([index])
    return groups


def require_budget(pairs: Sequence[RenderedPair], budget_tokens: int, num_answers: int) -> None:
    """A comparison that no micro-batch can hold is found before the first step."""
    longest = max((pair.length(name) for pair in pairs for name in pair.answers), default=0)
    if longest > budget_tokens // num_answers:
        raise InputError(over_budget(longest, budget_tokens // num_answers, num_answers))


def over_budget(length: int, room: int, num_answers: int = 1) -> Problem:
    return Problem(
        "micro-batch-too-small",
        f"one answer with its prompt has {length} tokens, a micro-batch has room for {room} of "
        "each answer of a comparison",
        path="batch.tokens_per_micro_batch",
        help=f"tokens_per_micro_batch: {length * num_answers} or more",
    )
