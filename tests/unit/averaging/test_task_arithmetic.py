import pytest
import torch

from posttrain.averaging import task_arithmetic
from posttrain.averaging.task_arithmetic import Config


def test_half_of_both_changes(two_tasks):
    # 1 + 0.5·(0.4 + 0.2), 1 + 0.5·(-0.2 + 0.6), 1 + 0.5·(0.05 - 0.01), 1 + 0.5·(0.3 - 0.1)
    merged = task_arithmetic.merge(two_tasks(), Config(scale=0.5))
    assert merged.tolist() == pytest.approx([1.3, 1.2, 1.02, 1.1], abs=1e-5)


def test_a_negative_weight_takes_away(two_tasks):
    # 1 + 0.5·(0.4 - 2·0.2), 1 + 0.5·(-0.2 - 2·0.6), ...
    merged = task_arithmetic.merge(two_tasks(weights=(1.0, -2.0)), Config(scale=0.5))
    assert merged.tolist() == pytest.approx([1.0, 0.3, 1.035, 1.25], abs=1e-5)


def test_weights_of_0_leave_the_base(two_tasks):
    merged = task_arithmetic.merge(two_tasks(weights=(0.0, 0.0)), Config())
    assert torch.equal(merged, torch.ones(4))


def test_one_whole_change_is_that_model(versions):
    pre, model = torch.randn(20), torch.randn(20)
    merged = task_arithmetic.merge(versions(model, pre=pre), Config(scale=1.0))
    assert torch.allclose(merged, model, atol=1e-6)


def test_a_base_is_needed(versions):
    with pytest.raises(ValueError, match="this method needs `pre`"):
        task_arithmetic.merge(versions([1.0]), Config())
