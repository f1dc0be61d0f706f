"""Pure tensor functions: no logging, no devices, no configuration.

Submodules load on first use, so an algorithm's file can name `ops.surrogates` and still be imported
where torch must not be (`posttrain check` reads its Config).

May import: torch, and nothing of posttrain.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from posttrain.ops import (
        baselines,
        best_of_n,
        checks,
        constraints,
        contrast,
        convex,
        ema,
        ensembles,
        fronts,
        fusion,
        kl,
        logprobs,
        masked,
        neighbours,
        off_policy,
        over_optimisation,
        preferences,
        returns,
        shaping,
        start_penalty,
        surrogates,
        values,
    )

__all__ = [
    "baselines",
    "best_of_n",
    "checks",
    "constraints",
    "contrast",
    "convex",
    "ema",
    "ensembles",
    "fronts",
    "fusion",
    "kl",
    "logprobs",
    "masked",
    "neighbours",
    "off_policy",
    "over_optimisation",
    "preferences",
    "returns",
    "shaping",
    "start_penalty",
    "surrogates",
    "values",
]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
