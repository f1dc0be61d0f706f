"""What torch, transformers and vLLM define while they are imported is never garbage."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_off() -> Iterator[None]:
    """No garbage collection in this block, and none of what is alive at its end, ever.

    Python's collector looks through everything over and over while much is being defined: that
    takes a fifth of the time of importing TRL or vLLM, and later full collections would look
    through it all again.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
        gc.freeze()
