"""Comparisons as tensors: padding, parts under a budget, answers of another row."""

import pytest
import torch

from posttrain.errors import InputError
from posttrain.train.known_prompts import distinct_prompts
from posttrain.train.pairs import (
    RenderedPair,
    group_by_length,
    hold_out_pairs,
    padded,
    require_budget,
    split_pairs,
    with_mismatched,
)


def pair(number, chosen, rejected):
    context = tuple(range(10, 10 + number))
    return RenderedPair({"chosen": (context, chosen), "rejected": (context, rejected)})


PAIRS = [pair(1, (1, 2), (3,)), pair(2, (4,), (5, 6, 7)), pair(1, (8,), (9,))]


def batch():
    rows = [p.answers[name] for name in ("chosen", "rejected") for p in PAIRS]
    return padded(rows, 0) | {"reference": torch.arange(6.0).view(3, 2)}


def test_padding_marks_answers_and_what_is_real():
    whole = batch()
    assert whole["input_ids"][1].tolist() == [10, 11, 4, 0, 0]
    assert whole["attention_mask"].sum(dim=1).tolist() == [3, 3, 2, 2, 5, 2]
    assert whole["completion_mask"].sum(dim=1).tolist() == [2, 1, 1, 1, 3, 1]
    assert whole["completion_mask"][4].tolist() == [0, 0, 1, 1, 1]


def test_parts_hold_whole_comparisons_without_their_padding():
    groups = group_by_length([3, 5, 2], 6)  # tokens for each answer
    parts = list(split_pairs(batch(), groups, 2))
    assert [share for _, share in parts] == pytest.approx([1 / 3, 2 / 3])
    first, second = (part for part, _ in parts)
    assert first["input_ids"].tolist() == [[10, 11, 4, 0, 0], [10, 11, 5, 6, 7]]
    assert first["reference"].tolist() == [[2.0, 3.0]]
    assert second["input_ids"].tolist() == [[10, 1, 2], [10, 8, 0], [10, 3, 0], [10, 9, 0]]
    assert second["reference"].tolist() == [[0.0, 1.0], [4.0, 5.0]]


def test_groups_are_within_the_budget():
    assert group_by_length([9, 2, 4, 3], 12) == [[0], [2, 3, 1]]
    assert group_by_length([9, 2, 4, 3], 36) == [[0, 2, 3, 1]]


def test_ranks_have_groups_of_the_same_sizes():
    """By the longest of both at each place: TRL gathers tensors of each micro-batch."""
    ranks = ([9, 2, 4, 3], [5, 6, 6, 1])
    longest = [max(both) for both in zip(*(sorted(r, reverse=True) for r in ranks), strict=True)]
    groups = [group_by_length(lengths, 12, lambda sizes: longest) for lengths in ranks]
    assert [[len(group) for group in each] for each in groups] == [[1, 2, 1]] * 2
    for lengths, each in zip(ranks, groups, strict=True):
        assert all(len(g) * max(lengths[i] for i in g) <= 12 for g in each)


def test_whole_prompts_are_held_out():
    pairs = [pair(1 + number // 3, (number,), (number, 1)) for number in range(30)]
    training, heldout = hold_out_pairs(pairs, 8, seed=1)
    assert len(heldout) == 6 and len(training) == 24  # a fifth at most, whole prompts of three
    assert not {p.prompt for p in training} & {p.prompt for p in heldout}
    assert hold_out_pairs(pairs, 8, seed=1) == (training, heldout)
    assert hold_out_pairs(pairs, 0, seed=1) == (pairs, [])


def test_each_prompt_is_known_once_and_the_seed_says_which_of_many():
    pairs = [pair(1 + number // 2, (number,), (number, 1)) for number in range(20)]
    prompts = distinct_prompts(pairs, seed=1)
    assert prompts == [tuple(range(10, 11 + number)) for number in range(10)]
    few = distinct_prompts(pairs, seed=1, most=4)
    assert len(few) == 4 and few == sorted(few) and set(few) <= set(prompts)
    assert few == distinct_prompts(pairs, seed=1, most=4) != distinct_prompts(pairs, 2, most=4)


def test_a_comparison_over_the_budget_is_refused_with_the_number_it_needs():
    with pytest.raises(InputError, match="has 5 tokens") as caught:
        require_budget(PAIRS, 8, 2)
    assert caught.value.problems[0].help == "tokens_per_micro_batch: 10 or more"
    require_budget(PAIRS, 10, 2)


def test_mismatched_answers_are_those_of_the_next_row_with_another_prompt():
    found = with_mismatched(PAIRS, {"other": "rejected"})
    assert [each.answers["other"] for each in found] == [
        ((10,), (5, 6, 7)),
        ((10, 11), (9,)),  # cut to the longest pair's length where it were longer
        ((10,), (5, 6, 7)),  # the first row has the same prompt
    ]
    long = [pair(1, (1,), (2,) * 4), pair(4, (3,), (4,))]
    assert with_mismatched(long, {"other": "rejected"})[1].answers["other"] == (
        (10, 11, 12, 13),
        (2,),
    )
