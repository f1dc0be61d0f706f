"""The checksum sees every change and nothing else."""

import pytest

torch = pytest.importorskip("torch")

from posttrain.weight_sync.checksum import checksum  # noqa: E402

WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}


def test_a_known_value():
    # Pinned: both ends of a transfer, and runs that are resumed, must agree on it.
    assert checksum(WEIGHTS) == "35d0467c486f234e40a96b682fd678cf"
    assert checksum({}) == "cae66941d9efbd404e4d88758ea67670"


def test_order_and_layout_do_not_matter():
    turned = torch.arange(6.0).reshape(2, 3).T.contiguous().T
    assert not turned.is_contiguous()
    assert checksum({"b": WEIGHTS["b"], "a": turned}) == checksum(WEIGHTS)


@pytest.mark.parametrize(
    "changed",
    [
        {"a": torch.arange(6.0).reshape(3, 2)},  # shape
        {"a": torch.arange(6.0).reshape(2, 3).double()},  # number format
        {"a": torch.arange(6).int().view(torch.float32).reshape(2, 3)},  # bytes
        {"a": WEIGHTS["b"], "b": WEIGHTS["a"]},  # names
        {"c": torch.zeros(0)},  # one more
    ],
)
def test_every_change_is_seen(changed):
    assert checksum({**WEIGHTS, **changed}) != checksum(WEIGHTS)


def test_one_bit_is_seen():
    flipped = WEIGHTS["a"].clone()
    flipped.view(torch.int32)[1, 2] ^= 1
    assert checksum({**WEIGHTS, "a": flipped}) != checksum(WEIGHTS)


def test_tied_weights_count_under_both_names():
    tied = {"embed": WEIGHTS["a"], "head": WEIGHTS["a"]}
    copied = {"embed": WEIGHTS["a"], "head": WEIGHTS["a"].clone()}
    assert checksum(tied) == checksum(copied)
    assert checksum(tied) != checksum({"embed": WEIGHTS["a"]})


def test_threads_give_the_same_number(monkeypatch):
    alone = checksum(WEIGHTS)
    monkeypatch.setattr("posttrain.weight_sync.checksum.THREADS_FROM_BYTES", 0)
    assert checksum(WEIGHTS) == alone


def test_scalars_and_slices():
    whole = torch.arange(10.0)
    assert checksum({"s": torch.tensor(3.0)}) == checksum({"s": whole[3]})
    assert checksum({"s": whole[2:4]}) != checksum({"s": whole[3:5]})
