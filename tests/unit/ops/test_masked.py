import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from posttrain.ops import masked

# Two answers: two tokens of loss 1, four tokens of loss 0.5.
LOSSES = torch.tensor([1.0, 1.0, 0.5, 0.5, 0.5, 0.5])
SEQUENCE = torch.tensor([0, 0, 1, 1, 1, 1])


def aggregate(mode, losses=LOSSES, mask=None, sequence=SEQUENCE, num=2, tokens=6.0, sequences=2.0):
    mask = torch.ones_like(losses) if mask is None else mask
    value = masked.aggregate(
        losses, mask, sequence, num, mode, total_tokens=tokens, total_sequences=sequences
    )
    return value.item()


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("token-mean", 4 / 6),  # (2·1 + 4·0.5) / 6
        ("seq-mean-token-mean", 0.75),  # (1 + 0.5) / 2
        ("seq-mean-token-sum", 2.0),  # (2 + 2) / 2
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


@pytest.mark.parametrize("mode", ["token-mean", "seq-mean-token-mean", "seq-mean-token-sum"])
def test_an_empty_answer_and_an_empty_batch_give_numbers(mode):
    # Three sequences, of which the middle one has no token: it is not in total_sequences.
    sequence = torch.tensor([0, 0, 2, 2, 2, 2])
    assert aggregate(mode, sequence=sequence, num=3) == pytest.approx(aggregate(mode), abs=1e-6)
    nothing = torch.zeros(0)
    assert aggregate(mode, nothing, nothing, nothing.long(), 0, 0.0, 0.0) == 0.0


@given(
    lengths=st.lists(st.integers(1, 5), min_size=2, max_size=6),
    split=st.integers(1, 5),
    mode=st.sampled_from(["token-mean", "seq-mean-token-mean", "seq-mean-token-sum"]),
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
