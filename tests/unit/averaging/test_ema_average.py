import pytest
import torch

from posttrain.averaging import ema


def test_two_updates_without_warm_up(versions):
    config = ema.Config(decay=0.99, warm_up=False)
    average = ema.merge(versions([0.0], [1.0], [1.0]), config)
    assert average.tolist() == pytest.approx([0.0199], abs=1e-6)  # 1 - 0.99²


def test_the_warm_up_forgets_the_first_model(versions):
    # d = 1/10, then 2/11: (0·0.1 + 0.9)·2/11 + 9/11 = 0.981818
    average = ema.merge(versions([0.0], [1.0], [1.0]), ema.Config(decay=0.99))
    assert average.tolist() == pytest.approx([0.981818], abs=1e-6)


def test_a_decay_of_0_is_the_last_model(versions):
    models = torch.randn(3, 4)
    assert torch.equal(ema.merge(versions(*models), ema.Config(decay=0.0)), models[2])


def test_equal_models_stay(versions):
    average = ema.merge(versions([2.5], [2.5], [2.5]), ema.Config(decay=0.5))
    assert average.tolist() == pytest.approx([2.5], abs=1e-6)
