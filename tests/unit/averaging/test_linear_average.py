import pytest
import torch

from posttrain.averaging import linear


def average(versions, pre, post, weight_pre):
    return linear.merge(versions(post, pre=pre, weight_pre=weight_pre), linear.Config())


def test_a_quarter_of_pre(versions):
    mixed = average(versions, [1.0, 2.0], [3.0, 6.0], 0.25)
    assert mixed.tolist() == [2.5, 5.0]  # 0.25·1 + 0.75·3, 0.25·2 + 0.75·6


@pytest.mark.parametrize("weight", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ends_are_exact(versions, weight, dtype):
    torch.manual_seed(0)
    pre, post = torch.randn(50, dtype=dtype), torch.randn(50, dtype=dtype)
    mixed = average(versions, pre, post, weight)
    assert torch.equal(mixed, pre if weight else post) and mixed.dtype == dtype


def test_inputs_are_left_alone(versions):
    pre, post = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 6.0])
    average(versions, pre, post, 0.5)
    assert (pre.tolist(), post.tolist()) == ([1.0, 2.0], [3.0, 6.0])


def test_a_weight_is_a_share(versions):
    with pytest.raises(ValueError, match=r"weight_pre is 1\.5"):
        average(versions, [1.0], [2.0], 1.5)


def test_two_models_are_needed(versions):
    with pytest.raises(ValueError, match="this method needs `pre`"):
        average(versions, None, [2.0], 0.5)
