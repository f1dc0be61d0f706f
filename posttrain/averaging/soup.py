"""Model soup: the mean of models that were trained from one start in different ways.

    θ = Σ_i w_i · θ_i        Σ_i w_i = 1; uniform where no weights are given

Wortsman et al., *Model soups*, arXiv 2203.05482. Assumes one shared start: the mean of models that
were trained from different random weights is noise. Degenerate case: a weight of 1 gives that
model.

One bad model spoils a uniform soup. The greedy soup (the paper's recipe 1) begins with the model
that scores best alone and adds the others in the order of their own scores, each for good if the
mean with it scores no less than without it. On the questions that decide it is never worse than the
best single model; those that are reported must be others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Tried:
    """One step of a greedy soup. Example: Tried(2, (1, 2), 0.71, True): with model 2 it is better.

    Models are numbers in the order in which they were given.
    """

    model: int
    soup: tuple[int, ...]  # what was scored: those kept so far, and this one last
    score: float
    kept: bool


def greedy(alone: Sequence[float], score: Callable[[tuple[int, ...]], float]) -> Iterator[Tried]:
    """The steps of a greedy soup; the last one kept has it. More score is better.

    `alone` are the scores of single models; equal ones are taken in the order given. `score` says
    how good the mean of several is, and is asked once for every model but the best, when its step
    is wanted. Raises ValueError without models, and for a score that is no number.
    """
    if not alone:
        raise ValueError("a soup needs at least one model")
    if any(math.isnan(each) for each in alone):
        raise ValueError("a model without a score has no place in the order")
    first, *others = sorted(range(len(alone)), key=lambda model: -alone[model])
    chosen: tuple[int, ...] = (first,)
    best = alone[first]
    yield Tried(first, chosen, best, True)
    for model in others:
        soup = (*chosen, model)
        together = score(soup)
        kept = together >= best
        if kept:
            chosen, best = soup, together
        yield Tried(model, soup, together, kept)
