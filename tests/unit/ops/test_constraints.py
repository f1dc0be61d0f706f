"""Which answers are learnt from under constraints, and what drifting costs."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from posttrain.ops import constraints


def test_the_factor_falls_from_one_to_nothing_over_the_budget():
    # 1 - 3/10; beyond 10 nats nothing, below 0 no premium
    found = constraints.kl_factor(torch.tensor([[3.0, 0.0, 10.0, 12.0, -4.0]]), 10.0)
    assert found[0].tolist() == pytest.approx([0.7, 1.0, 0.0, 0.0, 1.0])


def chosen(flags_GK):
    """Places of each group's choice; None where it has none."""
    return [row.index(True) if True in row else None for row in flags_GK.tolist()]


def test_the_best_is_the_first_of_the_highest_that_are_allowed():
    values = torch.tensor([[0.9, 0.5, 0.5], [0.1, 0.2, 0.3], [-2.0, -3.0, -1.0]])
    allowed = torch.tensor([[False, True, True], [False] * 3, [True, True, False]])
    found = constraints.best(values, allowed)
    assert chosen(found) == [1, None, 0]
    assert found.sum(1).tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match="allowed_GK has shape"):
        constraints.best(values, allowed[:, :2])


@pytest.mark.parametrize(
    ("rewards", "violations", "expected"),
    [
        ([0.3, 0.9, 0.0, 0.0], [0, 0, 1, 2], (1, 3)),  # of equal ones, what violates most
        ([0.3, 0.9, 0.2, 0.1], [0, 0, 1, 1], (1, 3)),  # the lowest that violates
        ([0.3, 0.9, 0.2, 0.1], [0, 0, 1, 0], (1, 2)),  # however low others are that do not
        ([0.3, 0.9, 0.2, 0.1], [0, 0, 0, 0], (1, 3)),  # none violates: the lowest
        ([0.3, 0.9, 0.2, 0.1], [1, 1, 2, 1], (None, None)),  # all violate
        ([0.4, 0.4, 0.4, 0.4], [0, 0, 0, 0], (None, None)),  # nothing to compare
        ([0.0, 0.0, 0.0, 0.0], [0, 0, 0, 1], (0, 3)),  # equal, but one violates
    ],
)
def test_pairs(rewards, violations, expected):
    found = constraints.pair(torch.tensor([rewards]), torch.tensor([violations]).float())
    assert tuple(chosen(each)[0] for each in found) == expected


def test_groups_of_one_have_no_pair():
    with pytest.raises(ValueError, match="two or more"):
        constraints.pair(torch.ones(2, 1), torch.zeros(2, 1))


REWARDS = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=4, max_size=4)
COUNTS = st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=4, max_size=4)


@given(REWARDS, COUNTS)
def test_a_pair_is_the_best_that_satisfies_before_the_worst(rewards, counts):
    preferred, avoided = constraints.pair(torch.tensor([rewards]), torch.tensor([counts]))
    plus, minus = chosen(preferred)[0], chosen(avoided)[0]
    satisfying = [r for r, c in zip(rewards, counts, strict=True) if c == 0]
    violating = [(r, -c) for r, c in zip(rewards, counts, strict=True) if c > 0]
    if not satisfying or (not violating and len(set(rewards)) == 1):
        assert plus is minus is None
        return
    assert (counts[plus], rewards[plus]) == (0, max(satisfying))
    worst = min(violating) if violating else (min(satisfying), -0.0)
    assert (rewards[minus], -counts[minus]) == worst
    assert plus != minus


@given(st.floats(-50, 50), st.floats(0.1, 100))
def test_the_factor_is_a_share(log_ratio, kl_max):
    factor = constraints.kl_factor(torch.tensor([[log_ratio]]), kl_max).item()
    assert 0.0 <= factor <= 1.0 and not math.isnan(factor)
    assert (factor == 1.0) if log_ratio <= 0 else (factor < 1.0 or log_ratio / kl_max < 1e-6)
