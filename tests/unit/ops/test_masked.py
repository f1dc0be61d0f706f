from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from posttrain.config import policy_gradient
from posttrain.ops import masked

# Two answers: two tokens of loss 1, four tokens of loss 0.5.
LOSSES = torch.tensor([1.0, 1.0, 0.5, 0.5, 0.5, 0.5])
SEQUENCE = torch.tensor([0, 0, 1, 1, 1, 1])


MODES = get_args(masked.Aggregation)


def aggregate(mode, losses=LOSSES, mask=None, sequence=SEQUENCE, num=2, tokens=6.0, sequences=2.0):
    mask = torch.ones_like(losses) if mask is None else mask
    value = masked.aggregate(
        losses,
        mask,
        sequence,
        num,
        mode,
        total_tokens=tokens,
        total_sequences=sequences,
        max_new_tokens=8,
    )
    return value.item()


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("token-mean", 4 / 6),  # (2·1 + 4·0.5) / 6
        ("seq-mean-token-mean", 0.75),  # (1 + 0.5) / 2
        ("seq-mean-token-sum", 2.0),  # (2 + 2) / 2
        ("seq-mean-token-sum-norm", 0.25),  # (2 + 2) / 2 / 8
    ],
)
def test_worked_example(mode, expected):
    assert aggregate(mode) == pytest.approx(expected, abs=1e-6)


def test_masked_tokens_count_neither_above_nor_below():
    mask = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    # token-mean: (1 + 1) / 3; per answer: (1 + 0.5) / 2
    assert aggregate("token-mean", mask=mask, tokens=3.0) == pytest.approx(2 / 3, abs=1e-6)
    assert aggregate("seq-mean-token-mean", mask=mask) == pytest.approx(0.75, abs=1e-6)


def test_infinity_under_the_mask_is_not_seen():
    losses = torch.tensor([1.0, float("inf"), 0.5, 0.5, 0.5, 0.5])
    mask = torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    assert aggregate("token-mean", losses, mask, tokens=5.0) == pytest.approx(0.6, abs=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_an_empty_answer_and_an_empty_batch_give_numbers(mode):
    # Three sequences, of which the middle one has no token: it is not in total_sequences.
    sequence = torch.tensor([0, 0, 2, 2, 2, 2])
    assert aggregate(mode, sequence=sequence, num=3) == pytest.approx(aggregate(mode), abs=1e-6)
    nothing = torch.zeros(0)
    assert aggregate(mode, nothing, nothing, nothing.long(), 0, 0.0, 0.0) == 0.0


@given(
    lengths=st.lists(st.integers(1, 5), min_size=2, max_size=6),
    split=st.integers(1, 5),
    mode=st.sampled_from(MODES),
)
def test_micro_batches_add_up_to_the_whole(lengths, split, mode):
    split = min(split, len(lengths) - 1)
    tokens, sequences = float(sum(lengths)), float(len(lengths))
    losses = torch.arange(sum(lengths), dtype=torch.float32) / 7
    whole_ids = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    whole = aggregate(mode, losses, None, whole_ids, len(lengths), tokens, sequences)
    cut, total = sum(lengths[:split]), 0.0
    for part, first, count in ((slice(0, cut), 0, split), (slice(cut, None), split, len(lengths))):
        ids = whole_ids[part] - first
        total += aggregate(mode, losses[part], None, ids, count, tokens, sequences)
    assert total == pytest.approx(whole, rel=1e-5)


def test_masked_mean_of_values_and_of_nothing():
    values = torch.tensor([[1.0, 5.0], [3.0, 7.0]])
    assert masked.masked_mean(values, torch.tensor([[1, 0], [1, 0]])).item() == 2.0
    assert masked.masked_mean(values, torch.zeros(2, 2)).item() == 0.0


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="mask_T has shape"):
        aggregate("token-mean", mask=torch.ones(3))


def test_the_configuration_names_the_same_modes():
    assert get_args(policy_gradient.Aggregation) == MODES


def test_the_constant_has_to_be_known():
    with pytest.raises(ValueError, match="divides by max_new_tokens, which is 0"):
        masked.aggregate(
            LOSSES,
            torch.ones(6),
            SEQUENCE,
            2,
            "seq-mean-token-sum-norm",
            total_tokens=6.0,
            total_sequences=2.0,
        )


def test_whitening_of_the_worked_example():
    values = torch.tensor([0.726975, 0.6705, 0.49, 99.0])
    mask = torch.tensor([1.0, 1.0, 1.0, 0.0])
    # mean 0.629158, unbiased variance 0.015321
    assert masked.masked_mean(values, mask).item() == pytest.approx(0.629158, abs=1e-6)
    assert masked.masked_variance(values, mask).item() == pytest.approx(0.015321, abs=1e-6)
    found = masked.whiten(values, mask)
    assert found.tolist() == pytest.approx([0.790255, 0.333997, -1.124252, 0.0], abs=1e-5)
    kept = masked.whiten(values, mask, shift_mean=False)
    assert kept.tolist() == pytest.approx([1.419413, 0.963155, -0.495093, 0.0], abs=1e-5)


@pytest.mark.parametrize("mask", [[0, 0], [1, 0], [1, 1]])
def test_whitening_of_nothing_one_and_equals_gives_zeros(mask):
    values = torch.tensor([2.0, 2.0])
    assert masked.whiten(values, torch.tensor(mask)).tolist() == [0.0, 0.0]
    assert masked.masked_variance(values, torch.tensor(mask)).item() == 0.0


def test_whitening_does_not_see_what_is_masked():
    values = torch.tensor([1.0, float("inf"), 3.0, float("nan")])
    found = masked.whiten(values, torch.tensor([1, 0, 1, 0]))
    assert found.tolist() == pytest.approx([-0.707107, 0.0, 0.707107, 0.0], abs=1e-6)  # ±1/√2


def test_equal_values_whiten_to_nothing_whatever_their_rounding():
    values, mask = torch.full((7,), 7.3), torch.ones(7)
    assert masked.whiten(values, mask).tolist() == [0.0] * 7
    kept = masked.whiten(values, mask, shift_mean=False)
    assert kept.tolist() == pytest.approx([7.3] * 7)
