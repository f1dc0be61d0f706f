"""The device checksum is an exact number, and every change of a byte changes it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from posttrain.weight_sync import device_checksum as module  # noqa: E402
from posttrain.weight_sync.device_checksum import device_checksum, word_sum  # noqa: E402

MASK = (1 << 64) - 1


def by_hand(data: bytes) -> int:
    """The same in Python's unbounded integers."""
    data += b"\0" * (-len(data) % 8)
    total = 0
    for i in range(len(data) // 8):
        word = int.from_bytes(data[8 * i : 8 * i + 8], "little")
        z = (word + (i + 1) * 0x9E3779B97F4A7C15) & MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        total = (total + (z ^ (z >> 31))) & MASK
    return total


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (torch.arange(16.0), 1678131885730558302),
        (torch.arange(3.0), 13795188619659420586),  # 12 bytes: the last word is filled with zeros
        (torch.arange(5, dtype=torch.bfloat16), 1529695756950739058),
        (torch.zeros(0), 0),
    ],
)
def test_exact_numbers(tensor, expected):
    assert word_sum(tensor).item() & MASK == expected
    assert by_hand(tensor.view(torch.uint8).numpy().tobytes()) == expected


def test_it_does_not_depend_on_how_a_tensor_lies_in_memory(monkeypatch):
    tensor = torch.arange(60.0).reshape(5, 12)
    whole = word_sum(tensor)
    assert word_sum(tensor.T.contiguous().T) == whole
    assert word_sum(torch.cat([torch.zeros(1), tensor.reshape(-1)])[1:].reshape(5, 12)) == whole
    monkeypatch.setattr(module, "CHUNK_WORDS", 7)
    assert word_sum(tensor) == whole


WEIGHTS = {"embed": torch.arange(15.0).reshape(5, 3), "norm": torch.ones(7)}


def test_names_shapes_and_formats_count_and_the_order_does_not():
    plain = device_checksum(WEIGHTS)
    assert len(plain) == 32
    assert device_checksum(dict(reversed(WEIGHTS.items()))) == plain
    others = [
        WEIGHTS | {"embed": WEIGHTS["embed"].reshape(3, 5)},
        WEIGHTS | {"norm": WEIGHTS["norm"].to(torch.bfloat16)},
        {"embed": WEIGHTS["embed"], "norms": WEIGHTS["norm"]},
        {"embed": WEIGHTS["embed"]},
        {},
    ]
    assert len({plain, *map(device_checksum, others)}) == 6


@pytest.mark.parametrize("position", [0, 7, 14])
def test_one_bit_or_two_exchanged_words_are_noticed(position):
    changed = WEIGHTS["embed"].clone()
    changed.view(torch.int32).reshape(-1)[position] ^= 1
    assert device_checksum(WEIGHTS | {"embed": changed}) != device_checksum(WEIGHTS)
    swapped = WEIGHTS["embed"].reshape(-1).clone()
    swapped[[0, 1, 2, 3]] = swapped[[2, 3, 0, 1]]
    exchanged = device_checksum(WEIGHTS | {"embed": swapped.reshape(5, 3)})
    assert exchanged != device_checksum(WEIGHTS)
