import pytest
import torch

from posttrain.ops import values


def error(value, old, target, clip):
    return values.squared_error(
        torch.tensor([value]), torch.tensor([old]), torch.tensor([target]), clip
    ).item()


def test_clipped_error_of_the_worked_example():
    # V' = 0.2 + 0.2 = 0.4: max(½·0.1², ½·0.6²) = 0.18
    assert error(0.9, 0.2, 1.0, 0.2) == pytest.approx(0.18, abs=1e-6)
    assert error(0.9, 0.2, 1.0, None) == pytest.approx(0.005, abs=1e-6)


def test_a_value_that_has_moved_far_enough_has_no_gradient():
    value = torch.tensor([0.9, 0.3], requires_grad=True)
    old, target = torch.tensor([0.2, 0.2]), torch.tensor([1.0, 1.0])
    values.squared_error(value, old, target, 0.2).sum().backward()
    assert value.grad.tolist() == pytest.approx([0.0, -0.7], abs=1e-6)  # V - R


def test_explained_share():
    returns, mask = torch.tensor([1.0, 2.0, 3.0, 9.0]), torch.tensor([1.0, 1.0, 1.0, 0.0])
    assert values.explained_share(returns, returns, mask) == 1.0
    assert values.explained_share(torch.full((4,), 5.0), returns, mask) == 0.0
    # R - V = [1, 1.5, 2]: variance 0.25 of 1
    half = values.explained_share(returns * 0.5 - 0.5, returns, mask)
    assert half == pytest.approx(0.75, abs=1e-6)
    assert values.explained_share(returns, torch.ones(4), mask) == 0.0
