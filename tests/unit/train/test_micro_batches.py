"""How a batch becomes optimiser steps and forward passes, by hand."""

import pytest

from posttrain.errors import InputError
from posttrain.train.micro_batches import micro_batches, pack, split
from posttrain.train.rl_batch import flatten


def test_a_packed_row(hand_made_batch):
    # answers 2 (prompt 1 4, token 7), 3 (empty) and 7 (prompt 1 6, tokens 9 2)
    micro = pack(flatten(hand_made_batch).sequences, [2, 3, 7])
    assert micro.token_ids_S.tolist() == [1, 4, 7, 1, 5, 1, 6, 9, 2]
    assert micro.lengths == (3, 2, 4)
    assert micro.wanted_S.tolist() == [False, False, True, *[False] * 4, True, True]
    # answers before them have 3, 3 (and 1, 0, 0, 4, 1) tokens
    assert micro.tokens_T.tolist() == [6, 12, 13]
    assert micro.sequence_T.tolist() == [0, 2, 2]
    assert micro.num_sequences == 3


def test_one_rank_packs_by_budget(hand_made_batch):
    sequences = flatten(hand_made_batch).sequences
    # total lengths 5 5 3 2 2 6 3 4 4; longest first, to the fewest sequences that leave room
    found = micro_batches(sequences, range(9), 12, num_ranks=1, rank=0)
    assert [micro.lengths for micro in found] == [(5, 6), (5, 2, 4), (3, 2, 3, 4)]
    assert sorted(t for micro in found for t in micro.tokens_T.tolist()) == list(range(16))


def test_ranks_share_the_same_sequences(hand_made_batch):
    sequences = flatten(hand_made_batch).sequences
    shares = [micro_batches(sequences, range(9), 12, num_ranks=2, rank=r) for r in (0, 1)]
    # three micro-batches could not be shared evenly: four, of 10, 8, 8 and 8 tokens
    assert [[sum(m.lengths) for m in share] for share in shares] == [[10, 8], [8, 8]]
    tokens = [t for share in shares for micro in share for t in micro.tokens_T.tolist()]
    assert sorted(tokens) == list(range(16))


def test_chosen_sequences_only(hand_made_batch):
    found = micro_batches(flatten(hand_made_batch).sequences, [1, 5], 100, num_ranks=1, rank=0)
    assert [micro.tokens_T.tolist() for micro in found] == [[3, 4, 5, 7, 8, 9, 10]]


def test_more_ranks_than_sequences(hand_made_batch):
    sequences = flatten(hand_made_batch).sequences
    with pytest.raises(InputError, match="2 sequences cannot fill 3 micro-batches"):
        micro_batches(sequences, [0, 1], 100, num_ranks=3, rank=0)


@pytest.mark.parametrize(
    ("num_parts", "indices", "tokens", "sequences"),
    [
        (1, [range(9)], [15.0], [7.0]),
        (2, [range(3), range(3, 9)], [7.0, 8.0], [3.0, 4.0]),  # one group, two groups
        (3, [range(3), range(3, 6), range(6, 9)], [7.0, 4.0, 4.0], [3.0, 1.0, 3.0]),
    ],
)
def test_parts_are_whole_groups(hand_made_batch, num_parts, indices, tokens, sequences):
    asked = []
    parts = split(flatten(hand_made_batch), num_parts, lambda chosen: asked.append(chosen) or [])
    assert asked == indices
    assert [part.total_tokens for part in parts] == tokens
    assert [part.total_sequences for part in parts] == sequences
