"""Comparisons as tensors: padding, parts under a budget, answers of another row."""

import pytest
import torch

from posttrain.errors import InputError
from posttrain.train.pairs import (
    RenderedPair,
    group_by_length,
    padded,
    require_budget,
    rotated,
    split_pairs,
)


def pair(number, chosen, rejected):
    context = tuple(range(10, 10 + number))
    return RenderedPair({"chosen": (context, chosen), "rejected": (context, rejected)}, "x")


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
    parts = list(split_pairs(batch(), 12, 2))  # six tokens for each answer
    assert [share for _, share in parts] == pytest.approx([1 / 3, 2 / 3])
    first, second = (part for part, _ in parts)
    assert first["input_ids"].tolist() == [[10, 11, 4, 0, 0], [10, 11, 5, 6, 7]]
    assert first["reference"].tolist() == [[2.0, 3.0]]
    assert second["input_ids"].tolist() == [[10, 1, 2], [10, 8, 0], [10, 3, 0], [10, 9, 0]]
    assert second["reference"].tolist() == [[0.0, 1.0], [4.0, 5.0]]


def test_ranks_can_ask_for_as_many_parts_as_the_others_have():
    assert group_by_length([9, 2, 4, 3], 12) == [[0], [2, 3, 1]]
    groups = group_by_length([9, 2, 4, 3], 100, min_groups=3)
    assert len(groups) == 3 and sorted(i for group in groups for i in group) == [0, 1, 2, 3]
    assert len(group_by_length([3, 3], 100, min_groups=5)) == 2


def test_a_comparison_over_the_budget_is_refused_with_the_number_it_needs():
    with pytest.raises(InputError, match="has 5 tokens") as caught:
        require_budget(PAIRS, 8, 2)
    assert caught.value.problems[0].help == "tokens_per_micro_batch: 10 or more"
    require_budget(PAIRS, 10, 2)


def test_borrowed_answers_are_the_next_rows_after_the_own_prompt():
    found = rotated(PAIRS, {"other": "rejected"})
    assert [each.answers["other"] for each in found] == [
        ((10,), (5, 6, 7)),
        ((10, 11), (9,)),
        ((10,), (3,)),
    ]
