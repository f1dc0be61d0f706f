"""AReaL's allocation, by its own examples."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.errors import InputError
from posttrain.train.packing import allocate, share_out


def sizes(lengths, budget, **kwargs):
    return [[lengths[i] for i in members] for members in allocate(lengths, budget, **kwargs)]


def test_published_examples():
    assert sizes([9, 7, 5, 4, 3, 2], 12) == [[9, 2], [7, 5], [4, 3]]
    assert sizes([9, 7, 5, 4, 3, 2], 12, min_bins=3) == [[9, 2], [7, 3], [5, 4]]
    assert sizes([6, 6, 5, 1, 1, 1], 10) == [[6, 1], [6, 1], [5, 1]]


def test_divisor_raises_the_number():
    # two of three micro-batches' worth, but four are asked for by a divisor of 4
    assert len(allocate([9, 7, 5, 4, 3, 2], 12, bins_divisor=4)) == 4
    assert len(allocate([9, 7, 5, 4, 3, 2], 12, bins_divisor=3)) == 3


def test_nothing_and_empty_sequences():
    assert allocate([], 10, min_bins=0) == []
    assert allocate([0, 0], 10) == [[0, 1]]


def test_refused():
    with pytest.raises(InputError) as caught:
        allocate([3, 13], 12)
    assert caught.value.problems[0].message == "one sequence has 13 tokens, a micro-batch holds 12"
    assert caught.value.problems[0].help == "tokens_per_micro_batch: 13 or more"
    with pytest.raises(InputError, match="1 sequences cannot fill 2 micro-batches"):
        allocate([3], 12, min_bins=2)


@given(st.lists(st.integers(1, 50), min_size=4, max_size=60), st.integers(1, 4))
def test_every_sequence_once_and_within_budget(lengths, min_bins):
    bins = allocate(lengths, 64, min_bins=min_bins)
    assert sorted(i for members in bins for i in members) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in members) <= 64 for members in bins)
    assert len(bins) >= min_bins


def test_ranks_get_as_many_micro_batches_and_about_as_many_tokens():
    # 9 to the first, 7 to the second, 5 to the second (7 < 9), 4 to the first
    assert share_out([9, 7, 5, 4], 2) == [[0, 3], [1, 2]]
    # as many each comes first: the fourth has to go to the first, however full it is
    assert share_out([100, 1, 1, 1], 2) == [[0, 3], [1, 2]]
    assert share_out([3, 8, 5], 3) == [[1], [2], [0]]
    assert share_out([3, 8, 5], 1) == [[0, 1, 2]]


def test_micro_batches_that_cannot_be_shared():
    with pytest.raises(ValueError, match="3 micro-batches cannot be shared by 2 ranks"):
        share_out([1, 1, 1], 2)
