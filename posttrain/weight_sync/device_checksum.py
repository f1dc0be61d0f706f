"""A checksum that is computed where the tensors are, for weights that never touch the host.

Hashing on the CPU would copy every byte off the device and cost more than the transfer. Here each
8-byte word, with its position added, goes through a 64-bit mixing function (the finaliser of
SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014), and the
results are added modulo 2^64. Integer sums do not depend on the order, so every device and any
number of threads give the same number.

What it proves: names, shapes, number formats and, up to one chance in 2^64 per tensor, bytes are
those that were sent: exchanged, missing, torn or repeated words are noticed. It is no protection
against somebody who forges weights, and it does not say that layers compute with them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from posttrain.weight_sync.checksum import DIGEST_BYTES

if TYPE_CHECKING:
    from torch import Tensor

CHUNK_WORDS = 1 << 22  # 32 MB at a time: bounds what is needed beside the weights
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # 2^64 / golden ratio, as a signed number
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)


def device_checksum(named_tensors: Mapping[str, Tensor]) -> str:
    """32 hex digits over names, shapes, number formats and bytes; the order does not matter.

    One copy of 8 bytes per tensor from the device; no tensor is changed.
    """
    import torch

    names = sorted(named_tensors)
    whole = hashlib.blake2b(digest_size=DIGEST_BYTES)
    if not names:
        return whole.hexdigest()
    sums = torch.stack([word_sum(named_tensors[name]) for name in names]).tolist()
    for name, value in zip(names, sums, strict=True):
        tensor = named_tensors[name]
        whole.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0{value}\0".encode())
    return whole.hexdigest()


def word_sum(tensor: Tensor) -> Tensor:
    """Sum of the mixed 8-byte words of a tensor, row-major: int64 [] on the tensor's device."""
    import torch

    data = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    whole = len(data) // 8 * 8
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    if data.storage_offset() % 8:
        data = data.clone()
    words = data[:whole].view(torch.int64)
    for start in range(0, len(words), CHUNK_WORDS):
        total += _mixed(words[start : start + CHUNK_WORDS], start).sum()
    if whole < len(data):
        last = torch.zeros(8, dtype=torch.uint8, device=tensor.device)
        last[: len(data) - whole] = data[whole:]
        total += _mixed(last.view(torch.int64), len(words)).sum()
    return total


def _mixed(words: Tensor, start: int) -> Tensor:
    import torch

    z = torch.arange(start + 1, start + 1 + len(words), device=words.device)
    z = z.mul_(_GOLDEN).add_(words)
    z ^= _shifted(z, 30)
    z *= _FIRST
    z ^= _shifted(z, 27)
    z *= _SECOND
    z ^= _shifted(z, 31)
    return z


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Shifted right with zeros coming in; torch repeats the sign."""
    return (z >> bits).bitwise_and_((1 << (64 - bits)) - 1)
