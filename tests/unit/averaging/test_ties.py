import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from posttrain.averaging import ties
from posttrain.averaging._election import elected_mean
from posttrain.averaging.ties import Config, trimmed

NUMBERS = st.floats(-10, 10, width=32)


def test_trim_keeps_the_largest_half():
    first, second = torch.tensor([0.4, -0.2, 0.05, 0.3]), torch.tensor([0.2, 0.6, -0.01, -0.1])
    assert trimmed(first, 0.5).tolist() == pytest.approx([0.4, 0, 0, 0.3])
    assert trimmed(second, 0.5).tolist() == pytest.approx([0.2, 0.6, 0, 0])


def test_two_tasks(two_tasks):
    # trimmed as above; signs + + + +; means over those that agree: (0.4 + 0.2)/2, 0.6, none, 0.3
    merged = ties.merge(two_tasks(), Config(density=0.5))
    assert merged.tolist() == pytest.approx([1.3, 1.6, 1.0, 1.3], abs=1e-5)
    doubled = ties.merge(two_tasks(), Config(density=0.5, scale=2.0))
    assert doubled.tolist() == pytest.approx([1.6, 2.2, 1.0, 1.6], abs=1e-5)


def test_the_election():
    tasks = [torch.tensor([0.4, -0.2, 1.0, 0.0]), torch.tensor([-0.1, -0.6, -1.0, 0.0])]
    # 0.3 > 0: only 0.4; both below 0: -0.4; a sum of 0 is positive: only 1; nobody: 0
    assert elected_mean(tasks, (1.0, 1.0)).tolist() == pytest.approx([0.4, -0.4, 1.0, 0.0])
    # 0.4 - 5·0.1 < 0: only -0.1; (-0.2 - 5·0.6)/6; 1 - 5 < 0: only -1; nobody: 0
    weighted = elected_mean(tasks, (1.0, 5.0)).tolist()
    assert weighted == pytest.approx([-0.1, -3.2 / 6, -1.0, 0.0])


@pytest.mark.parametrize(
    ("numbers", "density", "kept"),
    [
        ([1.0, 2.0, 3.0], 0.1, [0, 0, 3]),  # at least one
        ([2.0, -2.0, 1.0, 2.0], 0.5, [2, -2, 0, 2]),  # ties with the second stay, wherever they are
        ([0.0, 0.0, 0.0, 1.0], 0.5, [0, 0, 0, 1]),  # zeros are nothing to keep
        ([1.0, -3.0], 1.0, [1, -3]),
    ],
)
def test_trim_at_its_edges(numbers, density, kept):
    assert trimmed(torch.tensor(numbers), density).tolist() == kept


def test_a_share_that_floats_cannot_hold():
    assert trimmed(torch.arange(1.0, 101.0), 0.29).count_nonzero() == 29


@given(st.lists(st.lists(NUMBERS, min_size=3, max_size=3), min_size=2, max_size=4), st.randoms())
def test_the_order_of_models_changes_nothing(changes, rng):
    tasks = [torch.tensor(change) for change in changes]
    shuffled = rng.sample(tasks, len(tasks))
    near_tie = sum(tasks).abs() < 1e-4  # there the sum's sign hangs on its order
    same, other = (elected_mean(each, (1.0,) * len(tasks)) for each in (tasks, shuffled))
    assert torch.allclose(same[~near_tie], other[~near_tie], atol=1e-4)


def test_negative_weights_are_refused(two_tasks):
    with pytest.raises(ValueError, match="a weight is -1; the election needs 0 or more"):
        ties.merge(two_tasks(weights=(1.0, -1.0)), Config())
