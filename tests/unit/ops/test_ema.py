import pytest
import torch

from posttrain.ops import ema


def test_the_warm_up():
    # (1 + t) / (10 + t): 1/10, 2/11, 10/19; then the decay itself
    assert [ema.decay_at(t, 0.99) for t in (0, 1, 9)] == pytest.approx([0.1, 2 / 11, 10 / 19])
    assert ema.decay_at(890, 0.99) == pytest.approx(0.99)  # 891/900
    assert ema.decay_at(10**6, 0.99) == 0.99


def test_an_update():
    shadow, value = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.0])
    assert ema.updated(shadow, value, 0.75).tolist() == [1.5, 2.0]  # 0.75·1 + 0.25·3
    assert (shadow.tolist(), value.tolist()) == ([1.0, 2.0], [3.0, 2.0])


def test_a_shadow_keeps_its_format():
    # 0.999·1 + 0.001·2 = 1.001, which bf16 would round to 1
    shadow = ema.updated(torch.tensor([1.0]), torch.tensor([2.0]).bfloat16(), 0.999)
    assert shadow.dtype == torch.float32
    assert shadow.item() == pytest.approx(1.001, abs=1e-6)


def test_bad_input():
    with pytest.raises(ValueError, match=r"decay is 1\.5"):
        ema.decay_at(0, 1.5)
    with pytest.raises(ValueError, match="value has shape"):
        ema.updated(torch.zeros(2), torch.zeros(3), 0.5)
