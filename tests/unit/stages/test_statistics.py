"""Intervals against values worked out by hand."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.stages.statistics import difference, mean, perplexity, share
from posttrain.types import Interval


def numbers(interval):
    return (interval.value, interval.low, interval.high)


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [
        # z² = 3.841459; centre (p + z²/2n) / (1 + z²/n),
        # half z * sqrt(p(1-p)/n + z²/4n²) / (1 + z²/n)
        (8, 10, 0.490162, 0.943318),
        (81, 263, 0.255289, 0.366210),
        (1, 2, 0.094531, 0.905469),
        (0, 10, 0.0, 0.277533),  # z² / (n + z²) = 3.841459 / 13.841459
        (10, 10, 0.722467, 1.0),
        (0, 1, 0.0, 0.793450),  # 3.841459 / 4.841459
        (1, 1, 0.206550, 1.0),
    ],
)
def test_wilson(right, count, low, high):
    interval = share([1] * right + [0] * (count - right))
    assert numbers(interval) == pytest.approx((right / count, low, high), abs=1e-6)


def test_at_none_and_all_the_bounds_touch_exactly():
    for count in (1, 3, 7, 49, 1000):
        assert share([0] * count).low == 0.0
        assert share([1] * count).high == 1.0


def test_a_share_of_nothing_is_refused():
    with pytest.raises(ValueError, match="a share needs at least one observation"):
        share([])


@settings(max_examples=100)
@given(st.lists(st.integers(0, 1), min_size=1, max_size=300))
def test_a_share_lies_in_its_interval_and_mirrors(passed):
    interval = share(passed)
    assert 0.0 <= interval.low <= interval.value <= interval.high <= 1.0
    other = share([1 - each for each in passed])
    assert other.low == pytest.approx(1 - interval.high)
    assert other.high == pytest.approx(1 - interval.low)
    assert share(passed * 4).high - share(passed * 4).low < interval.high - interval.low


def test_perplexity_of_two_texts():
    # (2 ln 2 + 2 ln 8) / 4 = ln 4; residuals -2 ln 2 and 2 ln 2, variance 8 (ln 2)², so the half
    # width is z * sqrt(8 (ln 2)² / 2) / 2 = z ln 2 = 1.358544
    found = perplexity([2 * math.log(2), 2 * math.log(8)], [2, 2])
    assert numbers(found) == pytest.approx((4.0, 1.028139, 15.562091), rel=1e-6)


def test_perplexity_weighs_texts_by_their_tokens():
    # 3 tokens of ln 2 and one of ln 32: (3 + 5) ln 2 / 4 = 2 ln 2
    assert perplexity([3 * math.log(2), math.log(32)], [3, 1]).value == pytest.approx(4.0)


def test_perplexity_of_a_uniform_guess_is_the_vocabulary():
    found = perplexity([math.log(64) * n for n in (3, 5, 9)], [3, 5, 9])
    assert numbers(found) == pytest.approx((64.0, 64.0, 64.0))


@pytest.mark.parametrize(("nats", "tokens"), [([], []), ([0.0], [0])])
def test_perplexity_of_nothing_is_refused(nats, tokens):
    with pytest.raises(ValueError, match="perplexity needs at least one scored token"):
        perplexity(nats, tokens)


def test_perplexity_wants_a_count_per_text():
    with pytest.raises(ValueError):
        perplexity([1.0, 2.0], [3])


def test_mean_adds_half_widths_in_squares():
    found = mean([Interval(0.5, 0.4, 0.6), Interval(0.7, 0.4, 0.9)])
    # low: sqrt(0.1² + 0.3²) / 2 = 0.158114; high: sqrt(0.1² + 0.2²) / 2 = 0.111803
    assert numbers(found) == pytest.approx((0.6, 0.441886, 0.711803), abs=1e-6)
    one = Interval(0.25, 0.125, 0.5)
    assert numbers(mean([one])) == (0.25, 0.125, 0.5)


def test_the_mean_of_nothing_is_refused():
    with pytest.raises(ValueError, match="a mean needs at least one value"):
        mean([])


def test_a_difference_is_uncertain_on_the_sides_that_face_each_other():
    found = difference(Interval(0.6, 0.5, 0.75), Interval(0.4, 0.35, 0.52))
    # low: sqrt(0.1² + 0.12²) = 0.156205; high: sqrt(0.15² + 0.05²) = 0.158114
    assert numbers(found) == pytest.approx((0.2, 0.043795, 0.358114), abs=1e-6)


def test_a_difference_of_certain_values_is_certain():
    assert numbers(difference(Interval(3.0, 3.0, 3.0), Interval(1.0, 1.0, 1.0))) == (2.0, 2.0, 2.0)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 1), min_size=1), st.lists(st.integers(0, 1), min_size=1))
def test_a_difference_turns_around(first, second):
    one, other = share(first), share(second)
    there, back = difference(one, other), difference(other, one)
    assert numbers(there) == pytest.approx((-back.value, -back.high, -back.low))


def test_grades_have_the_interval_of_their_mean():
    found = share([0.5, 0.7, 0.9, 0.7])
    half = 1.959963984540054 * ((0.08 / 3) / 4) ** 0.5
    assert (found.value, found.low, found.high) == pytest.approx((0.7, 0.7 - half, 0.7 + half))
    assert share([1.0, 0.0]) == share([1, 0])
