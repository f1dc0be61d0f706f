"""Ending a stage where held-out rows say that it gets no better, with its best weights.

What is known stands in one file, which holds the best weights, their step and what was measured
then: it outlives a stop, and measuring the same step again changes nothing. How often nothing was
better since is arithmetic, as measurements come at equal intervals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from posttrain.files import whole_file

FILE = "best.safetensors"  # in the stage's folder, while it is trained


@dataclass(frozen=True, slots=True)
class Best:
    """The best measurement so far."""

    step: int
    value: float


@dataclass(frozen=True, slots=True)
class HeldoutWatch:
    """Measurements of one stage, on the rank that measures."""

    directory: Path  # the stage's folder
    metric: str
    higher_is_better: bool
    patience: int
    every: int  # steps between two measurements

    def best(self) -> Best | None:
        """None before the first measurement."""
        if not self._file.exists():
            return None
        with safe_open(self._file, framework="pt") as stored:
            said = stored.metadata()
        return Best(int(said["step"]), float(said["value"]))

    def note(self, step: int, value: float, weights: Callable[[], Mapping[str, Tensor]]) -> bool:
        """Take a measurement down; the best one's weights with it. Whether training ends here."""
        best = self.best()
        if best is None or step == best.step or self._is_better(value, best.value):
            whole = {name: value.detach().cpu().contiguous() for name, value in weights().items()}
            with whole_file(self._file) as partial:
                save_file(whole, partial, {"step": str(step), "value": repr(float(value))})
            return False
        return misses(step, best.step, self.every) >= self.patience

    def restore(self, model: Any) -> Best | None:
        """Put the best weights into the model, in place."""
        best = self.best()
        if best is not None:
            kept = load_file(self._file)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if name in kept:
                        parameter.copy_(kept[name])
        return best

    def why(self, best: Best) -> str:
        """For the event that says that training ended."""
        return (
            f"{self.metric} was not better than {best.value:.4g} (step {best.step}) in the last "
            f"{self.patience} measurements: training ends here, with the weights of step "
            f"{best.step}"
        )

    @property
    def _file(self) -> Path:
        return self.directory / FILE

    def _is_better(self, value: float, than: float) -> bool:
        """Anything is better than what is no number."""
        if math.isnan(value) or math.isnan(than):
            return math.isnan(than) and not math.isnan(value)
        return value > than if self.higher_is_better else value < than


def misses(step: int, best_step: int, every: int) -> int:
    """Measurements after the best one's step, this one included: one per `every` steps, and one
    after the last step. 0 before.
    """
    return max(0, -(-(step - best_step) // every))
