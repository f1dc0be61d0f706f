"""TIES: trim, elect signs, merge. Changes that contradict one another are not added up.

    1. of each τ_i = θ_i - θ_pre keep the share `density` with the largest size, tensor by tensor
    2. per entry the sign of Σ_i w_i τ_i wins (0 counts as positive)
    3. τ = Σ w_i τ_i / Σ w_i over the models whose kept entry has that sign; 0 where there is none
    4. θ = θ_pre + λ · τ

Yadav et al., *TIES-Merging*, arXiv 2306.01708: density 0.2 and λ = 1. Assumes that the largest
changes carry the training and that the small ones are noise. Entries as large as the smallest kept
one are kept too, so that the order of entries says nothing. Degenerate case: density 1 and changes
of one sign give the weighted mean of the models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from posttrain.averaging._election import elected_mean
from posttrain.averaging._vectors import base, task_vectors, weights_of
from posttrain.config.strict import StrictModel
from posttrain.ports import AveragingNeeds, TensorVersions

if TYPE_CHECKING:
    from torch import Tensor

NEEDS = AveragingNeeds(base=True, weights="positive")


class Config(StrictModel):
    """Settings of TIES, beside the stage's `weights` (1 each where not given)."""

    density: float = Field(default=0.2, gt=0, le=1)
    """Share of each tensor's changes that is kept, the largest ones."""
    scale: float = 1.0
    """λ: what the merged change is multiplied with."""


def merge(versions: TensorVersions, config: Config) -> Tensor:
    """θ_pre plus the elected changes."""
    tasks = [trimmed(task, config.density) for task in task_vectors(versions)]
    elected = elected_mean(tasks, weights_of(versions))
    return elected.mul_(config.scale).add_(base(versions))


def trimmed(task: Tensor, density: float) -> Tensor:
    """The change with all but its largest entries set to 0; at least one stays."""
    kept = max(1, int(density * task.numel() + 1e-6))  # 0.29 · 100 is 28.999... in floats
    if kept >= task.numel():
        return task
    sizes = task.abs()
    smallest = sizes.flatten().kthvalue(task.numel() - kept + 1).values
    return task.masked_fill(sizes < smallest, 0.0)
