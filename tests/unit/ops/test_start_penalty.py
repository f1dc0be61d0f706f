"""What the distance to the start costs, against numbers and autograd."""

import pytest
import torch

from posttrain import ops


def test_by_hand():
    difference = torch.tensor([2.0, -0.5, 0.0])
    # sign [1, -1, 0] · 0.1 + difference · 0.5
    wanted = torch.tensor([1.1, -0.35, 0.0])
    torch.testing.assert_close(ops.start_penalty.gradient(difference, 0.1, 0.5), wanted)
    # 0.1 · 2.5 + 0.25 · 4.25
    assert ops.start_penalty.value(2.5, 4.25, 0.1, 0.5) == pytest.approx(1.3125)


def test_the_gradient_is_that_of_the_value():
    start, weights = torch.randn(50), torch.randn(50, requires_grad=True)
    difference = weights - start
    (0.3 * difference.abs().sum() + 0.5 * 0.7 * difference.square().sum()).backward()
    ours = ops.start_penalty.gradient((weights - start).detach(), 0.3, 0.7)
    torch.testing.assert_close(ours, weights.grad)


def test_nothing_at_the_start():
    assert ops.start_penalty.gradient(torch.zeros(3), 1.0, 1.0).tolist() == [0.0, 0.0, 0.0]
    assert ops.start_penalty.value(0.0, 0.0, 1.0, 1.0) == 0.0
