"""How much memory training took."""

from __future__ import annotations

import resource

import torch


def peak_memory_bytes() -> float:
    """Of the device on a GPU, of the process on a CPU."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
