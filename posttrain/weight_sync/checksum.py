"""One number for a set of named weights, the same on both sides of a transfer.

What it proves: the names, shapes, number formats and bytes that an engine received are those that
the trainer published. Both sides compute it over their own copy, the trainer before it writes, the
engine after it has mapped the file and before it touches its model.

What it does not prove: that the engine *computes* with them. On CPUs vLLM repacks matrices and
frees the originals; a layer that was not repacked goes on with the old weights and no byte tells.
That is what `held.stale_modules` asks, and, end to end, the comparison of log-probs with the
trainer's.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

DIGEST_BYTES = 16
THREADS_FROM_BYTES = 64 << 20  # below, starting threads costs more than they win


def checksum(named_tensors: Mapping[str, Tensor]) -> str:
    """32 hex digits over names, shapes, number formats and bytes; the order does not matter.

    Tensors of any device and layout; no tensor is changed. Names that share one storage are hashed
    once. blake2b, one digest per tensor; large sets use as many threads as the process may.
    """
    distinct = {_storage_key(tensor): tensor for tensor in named_tensors.values()}
    digests = dict(zip(distinct, _digest_all(list(distinct.values())), strict=True))
    whole = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for name in sorted(named_tensors):
        tensor = named_tensors[name]
        description = f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0"
        whole.update(description.encode() + digests[_storage_key(tensor)])
    return whole.hexdigest()


def byte_view(tensor: Tensor) -> np.ndarray:
    """The tensor's bytes in row-major order, flat uint8 [num_bytes]; a copy only where needed."""
    import torch

    flat = tensor.detach().contiguous().cpu().reshape(-1)
    return flat.view(torch.uint8).numpy()


def _storage_key(tensor: Tensor) -> tuple[object, ...]:
    # Tied weights are one storage under two names. Empty tensors all have address 0, and equal
    # bytes.
    return (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.device)


def _digest(tensor: Tensor) -> bytes:
    return hashlib.blake2b(byte_view(tensor).data, digest_size=DIGEST_BYTES).digest()


def _digest_all(tensors: list[Tensor]) -> list[bytes]:
    num_threads = min(len(os.sched_getaffinity(0)), 8)
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if num_threads == 1 or num_bytes < THREADS_FROM_BYTES:
        return [_digest(tensor) for tensor in tensors]
    with ThreadPoolExecutor(num_threads) as pool:  # hashlib releases the interpreter's lock
        return list(pool.map(_digest, tensors))
