import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from posttrain.averaging._quantiles import Quantiles


def test_few_numbers_are_exact():
    quantiles = Quantiles()
    for part in torch.randperm(101).float().split(7):
        quantiles.add(part)
    assert [quantiles.at_rank(share) for share in (0, 0.25, 0.5, 1)] == [0, 25, 50, 100]
    assert quantiles.top(10 / 101) == 91.0
    assert quantiles.top(1e-9) == 100.0


def test_no_numbers():
    with pytest.raises(ValueError, match="there are no quantiles"):
        Quantiles().at_rank(0.5)
    with pytest.raises(ValueError, match="there are no quantiles"):
        Quantiles().top(0.5)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.integers(4, 50))
def test_a_sample_is_even_and_bounded(lengths, limit):
    numbers = torch.arange(float(sum(lengths)))
    quantiles = Quantiles(limit=limit)
    for part in numbers.split(lengths):
        quantiles.add(part)
    if not len(numbers):
        return
    sample = quantiles._sample()
    assert len(sample) <= limit
    assert torch.equal(sample, numbers[:: quantiles._step])
    assert (quantiles.smallest, quantiles.largest) == (0.0, len(numbers) - 1)


def test_many_numbers_are_near():
    torch.manual_seed(0)
    quantiles = Quantiles(limit=10_000)
    for _ in range(20):
        quantiles.add(torch.rand(10_000))
    assert quantiles.at_rank(0.9) == pytest.approx(0.9, abs=0.015)
    assert quantiles.top(0.1) == pytest.approx(0.9, abs=0.015)
