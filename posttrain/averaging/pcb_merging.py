"""PCB-Merging: every entry of every change gets a weight of its own, without training.

    τ_i = θ_i - θ_pre, |τ_i| held to its own quantiles at both tails
    within a task    a_i = minmax(|τ_i|)²,  exp(n · a_i)
    across tasks     b_i = tanh(τ_i · Σ_j τ_j)
    score_i = exp(n · a_i) · b_i;   all but the largest `ratio` of the scores count 0
    s_i = minmax(max(score_i, threshold_i));   θ = θ_pre + λ · Σ_i τ_i s_i / Σ_i s_i

n models; minmax, quantiles and thresholds are over all tensors of a model. Du et al., *Parameter
Competition Balancing for Model Merging*, arXiv 2410.02396, in the form of the authors' program,
which differs from the softmax of the paper. Assumes that a large change on which tasks agree in
sign is worth keeping. Because of the minmax the smallest of the kept scores counts 0 as well.
Degenerate case: where every task's weight is 0, θ_pre stays.

Three readings of all tensors: tails of the sizes, then thresholds of the scores, then the merge.
Above four million entries quantiles come from an even sample of so many.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from posttrain.averaging._quantiles import Quantiles
from posttrain.averaging._vectors import base, task_vectors
from posttrain.config.strict import StrictModel
from posttrain.ports import AveragingNeeds, TensorVersions

if TYPE_CHECKING:
    from torch import Tensor

NEEDS = AveragingNeeds(base=True, min_models=2)


class Config(StrictModel):
    """Settings of PCB-Merging."""

    ratio: float = Field(default=0.1, gt=0, le=1)
    """Share of entries that each model contributes; the authors take 0.05 to 0.1."""
    scale: float = 1.2
    """λ: what the merged change is multiplied with; the authors search between 0.8 and 1.3."""
    tails: float = Field(default=1e-4, ge=0, lt=0.5)
    """Share of the smallest and of the largest changes that count as the next ones do."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What PCB-Merging knows of one model before it merges."""

    low: float  # of |τ|
    high: float
    threshold: float = -math.inf  # of the scores
    largest: float = math.inf


def survey(tensors: Callable[[], Iterator[TensorVersions]], config: Config) -> tuple[Survey, ...]:
    """Reads all tensors twice; one Survey per model."""
    sizes: list[Quantiles] = []
    for versions in tensors():
        sizes = sizes or [Quantiles() for _ in versions.models]
        for quantiles, task in zip(sizes, task_vectors(versions), strict=True):
            quantiles.add(task.abs())
    bounds = [
        Survey(each.at_rank(config.tails), each.at_rank(1.0 - config.tails)) for each in sizes
    ]
    scores = [Quantiles() for _ in bounds]
    for versions in tensors():
        for quantiles, score in zip(scores, balanced(task_vectors(versions), bounds), strict=True):
            quantiles.add(score)
    return tuple(
        Survey(bound.low, bound.high, score.top(config.ratio), score.largest)
        for bound, score in zip(bounds, scores, strict=True)
    )


def merge(versions: TensorVersions, config: Config) -> Tensor:
    """`versions.found` is what `survey` returned. Raises ValueError without it."""
    if versions.found is None:
        raise ValueError("PCB-Merging needs its survey before it merges")
    tasks = task_vectors(versions)
    summed, counted = tasks[0].new_zeros(tasks[0].shape), tasks[0].new_zeros(tasks[0].shape)
    scores = balanced(tasks, versions.found)
    for task, score, bound in zip(tasks, scores, versions.found, strict=True):
        spread = bound.largest - bound.threshold
        share = (score - bound.threshold).clamp_(min=0.0).div_(spread if spread > 0 else 1.0)
        summed.addcmul_(task, share)
        counted.add_(share)
    merged = summed.div_(counted.masked_fill_(counted == 0, 1.0))
    return merged.mul_(config.scale).add_(base(versions))


def balanced(tasks: list[Tensor], bounds: tuple[Survey, ...] | list[Survey]) -> Iterator[Tensor]:
    """score_i of each task's entries."""
    total = sum(tasks[1:], tasks[0])
    for task, bound in zip(tasks, bounds, strict=True):
        spread = bound.high - bound.low
        size = task.abs().clamp_(bound.low, bound.high).sub_(bound.low)
        within = size.div_(spread if spread > 0 else 1.0).square_().mul_(len(tasks)).exp_()
        yield within.mul_((task * total).tanh_())
