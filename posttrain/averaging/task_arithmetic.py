"""Task arithmetic: what each training changed, added to the model that all of them started from.

    θ = θ_pre + λ · Σ_i w_i · τ_i        τ_i = θ_i - θ_pre

Ilharco et al., *Editing Models with Task Arithmetic*, arXiv 2212.04089. A negative weight takes a
skill away. Assumes that the tasks changed different things: where they changed the same entries in
opposite directions, they cancel (TIES and PCB-Merging look at that). The paper's λ for several
tasks lie between 0.3 and 0.5. Degenerate case: one model with λ·w = 1 is that model, to rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from posttrain.averaging._vectors import base, task_vectors, weights_of
from posttrain.config.strict import StrictModel
from posttrain.ports import AveragingNeeds, TensorVersions

if TYPE_CHECKING:
    from torch import Tensor

NEEDS = AveragingNeeds(base=True, weights="any")


class Config(StrictModel):
    """Settings of task arithmetic, beside the stage's `weights` (1 each where not given)."""

    scale: float = 0.4
    """λ: what the sum of the changes is multiplied with."""


def merge(versions: TensorVersions, config: Config) -> Tensor:
    """θ_pre plus the weighted changes."""
    merged = base(versions).clone()
    for task, weight in zip(task_vectors(versions), weights_of(versions), strict=True):
        merged.add_(task, alpha=config.scale * weight)
    return merged
