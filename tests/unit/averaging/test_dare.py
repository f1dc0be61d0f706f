import pytest
import torch

from posttrain.averaging import dare, task_arithmetic
from posttrain.averaging.dare import Config, kept, rescaled


def test_what_is_kept_is_rescaled():
    task, mask = torch.tensor([0.4, -0.2, 0.05, 0.3]), torch.tensor([True, False, True, False])
    assert rescaled(task, mask, 0.5).tolist() == pytest.approx([0.8, 0, 0.1, 0], abs=1e-5)


def test_the_mask_has_its_density_and_no_memory():
    task = torch.zeros(100, 200)
    mask = kept(task, 0.1, 3, "a", 0)
    # 20,000 draws: 0.1 ± 4·sqrt(0.1·0.9/20,000)
    assert mask.float().mean().item() == pytest.approx(0.1, abs=0.0085)
    torch.manual_seed(1)
    assert torch.equal(mask, kept(task, 0.1, 3, "a", 0))
    for other in ((4, "a", 0), (3, "b", 0), (3, "a", 1)):
        assert not torch.equal(mask, kept(task, 0.1, *other))


def test_the_expected_change_stays(versions):
    pre, model = torch.zeros(100_000), torch.ones(100_000)
    merged = dare.merge(versions(model, pre=pre), Config(density=0.1))
    assert set(merged.tolist()) == {0.0, 10.0}
    assert merged.mean().item() == pytest.approx(1.0, abs=0.04)  # 4·sqrt(0.1·0.9/100,000)/0.1


def test_density_1_is_task_arithmetic(two_tasks):
    expected = task_arithmetic.merge(two_tasks(), task_arithmetic.Config(scale=0.5))
    merged = dare.merge(two_tasks(), Config(density=1.0, scale=0.5))
    assert torch.allclose(merged, expected, atol=1e-6)


def test_density_1_with_an_election(two_tasks):
    # 0.2, -0.2 and 0.6: only 0.6; 0.05 against -0.01; 0.3 against -0.1
    merged = dare.merge(two_tasks(), Config(density=1.0, combine="ties"))
    assert merged.tolist() == pytest.approx([1.3, 1.6, 1.05, 1.3], abs=1e-5)
    with pytest.raises(ValueError, match="the election needs 0 or more"):
        dare.merge(two_tasks(weights=(1.0, -1.0)), Config(combine="ties"))
