"""How far the policy has moved: of all answers, or of a sixteenth of them."""

import pytest
import torch

from posttrain.train.ranks import Ranks
from posttrain.train.reference import distance_nats, sample
from posttrain.train.rl_batch import flatten


def test_a_sixteenth_of_the_answers_others_each_step():
    assert list(sample(256, 3, 1)) == list(range(3, 256, 16))
    assert list(sample(256, 19, 1)) == list(sample(256, 3, 1))
    every = sorted(i for step in range(16) for i in sample(256, step, 1))
    assert every == list(range(256))


@pytest.mark.parametrize(
    ("num_sequences", "num_ranks", "expected"),
    [(256, 1, 16), (64, 1, 4), (30, 1, 5), (9, 1, 5), (3, 1, 3), (1, 1, 1), (256, 32, 32)],
)
def test_no_fewer_than_four_and_one_per_rank(num_sequences, num_ranks, expected):
    for step in range(20):
        found = len(sample(num_sequences, step, num_ranks))
        assert found >= min(max(4, num_ranks), num_sequences)
    assert len(sample(num_sequences, 0, num_ranks)) == expected


def test_distance_is_summed_over_an_answer_and_averaged_over_answers(hand_made_batch):
    flat = flatten(hand_made_batch)
    reference_T = flat.behaviour_logprobs_T - 0.25  # every token 0.25 nats likelier than it was
    # tokens chosen by the policy: 3 3 1 0 0 4 1 1 2 of nine answers
    assert distance_nats(flat, reference_T, range(9)) == pytest.approx(15 * 0.25 / 9)
    assert distance_nats(flat, reference_T, range(2, 9, 3)) == pytest.approx((1 + 4 + 2) * 0.25 / 3)


def test_a_group_of_one_needs_no_torch_group():
    alone = Ranks()
    assert (alone.rank, alone.num, alone.is_first) == (0, 1, True)
    assert alone.from_first(lambda: 3, "three") == 3
    assert alone.together(lambda: 4, "four") == 4
    assert alone.broadcast_object({"a": 1}, "a letter") == {"a": 1}
    values = torch.tensor([1.0, 2.0])
    assert alone.all_reduce_sum(values, "a sum").tolist() == [1.0, 2.0]
    assert alone.all_reduce_max(values, "a maximum").tolist() == [1.0, 2.0]
    assert Ranks.join().num == 1  # no torch group exists here
