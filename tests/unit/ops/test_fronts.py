import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.ops.fronts import hypervolume

SHARES = st.floats(0.0, 1.0, width=32)
POINTS = st.lists(st.tuples(SHARES, st.floats(-0.5, 1.5, width=32)), max_size=8)


@pytest.mark.parametrize(
    ("points", "area"),
    [
        ([], 0.0),
        ([(0.8, 0.1)], 0.72),  # 0.8 · (1 - 0.1)
        ([(0.8, 0.1), (0.6, 0.0)], 0.78),  # 0.6·1 + 0.2·0.9
        ([(0.6, 0.0), (0.8, 0.1), (0.9, 0.5)], 0.83),  # 0.6·1 + 0.2·0.9 + 0.1·0.5
        ([(0.8, 0.1), (0.7, 0.2)], 0.72),  # more for less: the second one adds nothing
        ([(0.8, 0.1), (0.8, 0.1)], 0.72),
        ([(0.8, 0.1), (0.8, 0.3), (0.5, 0.1)], 0.72),  # as much for more, less for as much
        ([(0.5, -0.1)], 0.55),  # 0.5 · (1 + 0.1)
        ([(0.5, 1.0), (0.0, 0.2)], 0.0),  # at the reference's edge
    ],
)
def test_worked_areas(points, area):
    assert hypervolume(points) == pytest.approx(area)


def test_another_reference():
    # Above 50 % for less than 20 points: 0.1·(0.2 - 0) + 0.2·(0.2 - 0.1); the last is too dear
    assert hypervolume([(0.6, 0.0), (0.8, 0.1), (0.9, 0.5)], (0.5, 0.2)) == pytest.approx(0.04)


@given(POINTS, st.tuples(SHARES, SHARES))
def test_one_point_more_takes_nothing_away(points, more):
    assert hypervolume([*points, more]) >= hypervolume(points) - 1e-12


@given(POINTS, st.tuples(SHARES, SHARES), SHARES, SHARES)
def test_what_is_dominated_changes_nothing(points, better, less, dearer):
    gain, tax = better
    worse = (gain * less, tax + dearer)
    with_it = hypervolume([*points, better, worse])
    assert with_it == pytest.approx(hypervolume([*points, better]), abs=1e-12)


@given(POINTS, st.randoms())
def test_the_order_changes_nothing(points, rng):
    assert hypervolume(rng.sample(points, len(points))) == hypervolume(points)


@given(POINTS, st.integers(1, 40))
def test_it_is_the_mean_of_what_can_be_had_at_every_bound(points, count):
    """Against its definition: the best gain below each of many bounds, for points in the square."""
    inside = [(gain, round(max(0.0, tax) * count) / count) for gain, tax in points]
    bounds = [(number + 0.5) / count for number in range(count)]
    had = [max((g for g, tax in inside if tax < bound), default=0.0) for bound in bounds]
    assert hypervolume(inside) == pytest.approx(sum(had) / count, abs=1e-9)


@pytest.mark.parametrize("point", [(float("nan"), 0.0), (0.5, float("inf"))])
def test_numbers_that_are_none(point):
    with pytest.raises(ValueError, match="finite gains and taxes"):
        hypervolume([point])
