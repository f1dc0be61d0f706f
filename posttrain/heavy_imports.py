"""torch, transformers, TRL and vLLM imported with less work: seconds of it in every process."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

UNWANTED = ("sklearn", "scipy", "wandb")
"""What transformers, TRL and vLLM import where it happens to be there, and nothing of ours needs
from them: a fifth of their time. (scikit-learn and SciPy come with the evaluation harness; the
tracker alone, which imports none of the three, speaks to W&B.)"""

atexit.register(gc.unfreeze)  # or libraries complain of leaks as the process ends


@contextmanager
def lean_imports() -> Iterator[None]:
    """For first imports: without what is unwanted, and without a garbage collection in this block.

    What libraries define while they are imported is never garbage. Python's collector looks through
    it over and over while it grows, a fifth of the time again, and through all of it in every full
    collection later; so what is alive at the end is left out of those.
    """
    hidden = [name for name in UNWANTED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: there is no such
    known = len(sys.modules)
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > known:
            gc.freeze()
        for name in hidden:
            if sys.modules.get(name, True) is None:  # another thread may have been here
                sys.modules.pop(name, None)
        if was_on:
            gc.enable()
