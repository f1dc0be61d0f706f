"""Which questions are asked: counts by hand."""

import pytest

from posttrain.harness.draw import drawn, shares


def test_parts_give_in_proportion_to_their_sizes():
    # 8 of 40: 6.0 and 2.0. 7 of 40: 5.25 and 1.75, one left for the larger remainder.
    assert shares({"a": 30, "b": 10}, 8, by_size=True) == {"a": 6, "b": 2}
    assert shares({"a": 30, "b": 10}, 7, by_size=True) == {"a": 5, "b": 2}
    assert shares({"a": 30, "b": 10}, 400, by_size=True) == {"a": 30, "b": 10}


def test_every_part_gives_at_least_one():
    assert shares({"a": 98, "b": 1, "c": 1}, 2, by_size=True) == {"a": 1, "b": 1, "c": 1}
    assert shares({"a": 3, "b": 50}, 1, by_size=False) == {"a": 1, "b": 1}


def test_parts_that_weigh_alike_give_as_many_each():
    assert shares({"a": 30, "b": 10}, 8, by_size=False) == {"a": 4, "b": 4}
    assert shares({"a": 30, "b": 3}, 8, by_size=False) == {"a": 3, "b": 3}
    assert shares({"a": 5}, 8, by_size=False) == {"a": 5}


def test_a_part_without_questions_is_refused():
    with pytest.raises(ValueError, match="no question in b"):
        shares({"a": 3, "b": 0}, 8, by_size=True)


def test_a_draw_is_the_same_every_time_and_another_for_another_part():
    first = drawn("mmlu_anatomy", 100, 10, seed=7)
    assert first == drawn("mmlu_anatomy", 100, 10, seed=7) == sorted(set(first))
    assert first != drawn("mmlu_virology", 100, 10, seed=7)
    assert first != drawn("mmlu_anatomy", 100, 10, seed=8)
    assert drawn("all", 4, 4, seed=7) == [0, 1, 2, 3]
