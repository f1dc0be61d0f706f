"""Model soup: the mean of models that were trained from one start in different ways.

    θ = Σ_i w_i · θ_i        Σ_i w_i = 1; uniform where no weights are given

Wortsman et al., *Model soups*, arXiv 2203.05482. Assumes one shared start: the mean of models that
were trained from different random weights is noise. One bad model spoils a uniform soup; `greedy`
adds models in the order of their own scores and keeps those that do not make the soup worse.
Degenerate case: a weight of 1 gives that model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from posttrain.averaging._vectors import weights_of
from posttrain.config.strict import StrictModel
from posttrain.ports import AveragingNeeds, TensorVersions

if TYPE_CHECKING:
    from torch import Tensor

NEEDS = AveragingNeeds(min_models=2, weights="shares")


class Config(StrictModel):
    """A soup has no settings beside the stage's `weights`; without them all models count alike."""


def merge(versions: TensorVersions, config: Config) -> Tensor:
    """Raises ValueError where weights do not sum to 1."""
    uniform = (1.0 / len(versions.models),) * len(versions.models)
    weights = weights_of(versions) if versions.weights else uniform
    if not math.isclose(sum(weights), 1.0, abs_tol=1e-6):
        raise ValueError(f"the weights of a soup sum to {sum(weights):g}, not to 1")
    total = versions.models[0] * weights[0]
    for model, weight in zip(versions.models[1:], weights[1:], strict=True):
        total.add_(model, alpha=weight)
    return total


def greedy(num_models: int, score: Callable[[tuple[int, ...]], float]) -> tuple[int, ...]:
    """The models of a greedy soup, the best one first.

    `score` says how good the uniform soup of some models is (more is better); it is asked once for
    every model alone and once for every model but the best in company. Raises ValueError for none.
    """
    if num_models < 1:
        raise ValueError("a soup needs at least one model")
    alone = [score((model,)) for model in range(num_models)]
    first, *others = sorted(range(num_models), key=lambda model: -alone[model])
    chosen: tuple[int, ...] = (first,)
    best = alone[first]
    for model in others:
        together = score((*chosen, model))
        if together >= best:
            chosen, best = (*chosen, model), together
    return chosen
