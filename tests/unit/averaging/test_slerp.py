import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from posttrain.averaging import slerp

CONFIG = slerp.Config()


def between(versions, pre, post, weight_pre):
    return slerp.merge(versions(post, pre=pre, weight_pre=weight_pre), CONFIG)


def test_half_way_between_two_directions(versions):
    # ω = 90°: sin 45° / sin 90° = 0.707107 of each; the straight line would give [0.5, 1]
    mixed = between(versions, [1.0, 0.0], [0.0, 2.0], 0.5)
    assert mixed.tolist() == pytest.approx([0.707107, 1.414214], abs=1e-5)


def test_a_share_of_the_angle(versions):
    # a third of 90° away from `post`: sin 30° = 0.5 of pre, sin 60° = 0.866025 of post
    mixed = between(versions, [1.0, 0.0], [0.0, 1.0], 1 / 3)
    assert mixed.tolist() == pytest.approx([0.5, 0.866025], abs=1e-5)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_ends_are_exact(versions, weight):
    pre, post = torch.randn(9), torch.randn(9)
    assert torch.equal(between(versions, pre, post, weight), pre if weight else post)


@pytest.mark.parametrize(
    ("pre", "post"),
    [
        ([1.0, 0.0], [2.0, 0.0]),  # cos 1: no angle between them
        ([1.0, 0.0], [-2.0, 0.0]),  # cos -1: every direction is half way
        ([0.0, 0.0], [2.0, 0.0]),  # no direction at all
        ([1.0, 0.0], [1.0, 0.01]),  # cos 0.99995
    ],
)
def test_where_there_is_no_arc_it_is_the_straight_line(versions, pre, post):
    expected = [0.25 * a + 0.75 * b for a, b in zip(pre, post, strict=True)]
    assert between(versions, pre, post, 0.25).tolist() == pytest.approx(expected, abs=1e-6)


@given(st.floats(0.05, 0.95), st.floats(0.1, 3.0))
def test_equal_lengths_stay(versions, weight, angle):
    pre, post = torch.tensor([1.0, 0.0]), torch.tensor([math.cos(angle), math.sin(angle)])
    assert between(versions, pre, post, weight).norm().item() == pytest.approx(1.0, abs=1e-4)


def test_the_shape_stays(versions):
    pre, post = torch.randn(3, 4), torch.randn(3, 4)
    flat = between(versions, pre.flatten(), post.flatten(), 0.5)
    assert torch.equal(between(versions, pre, post, 0.5), flat.view(3, 4))
