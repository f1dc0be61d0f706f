"""AdaMerging: coefficients of task vectors, layer by layer, that make the merged model sure.

    θ^(l) = θ_pre^(l) + Σ_i λ_i^(l) · τ_i^(l),     τ_i = θ_i - θ_pre
    min over λ in [0, 1]:  mean over answer tokens of H(softmax f_θ),   H(p) = -Σ p log p

Yang et al., *AdaMerging*, arXiv 2310.02575: λ starts at 0.3, Adam at 1e-3, 500 steps of 16 inputs
from the tasks themselves, without labels. For language models the inputs are prompts with answers,
and the entropy is that of the distribution before each answer token, in nats. Assumes that a sure
model is a right one; it can also be sure of nonsense, so watch `average/entropy` beside a measure
of quality. What is outside the layers has coefficients of its own. Degenerate case: answers to
which the models are already certain have no gradient, and λ stays at its start.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from posttrain.averaging._search import batches, with_answers
from posttrain.averaging._vectors import base, task_vectors
from posttrain.config.strict import StrictModel
from posttrain.ports import AveragingNeeds, Coefficients, CoefficientSearch, TensorVersions

if TYPE_CHECKING:
    from torch import Tensor

NEEDS = AveragingNeeds(base=True, answers=True)


class Config(StrictModel):
    """Settings of AdaMerging."""

    start: float = Field(default=0.3, ge=0, le=1)
    """Every λ at the beginning."""
    lr: float = Field(default=1e-3, gt=0)
    """Adam's learning rate."""
    steps: int = Field(default=500, gt=0)
    """Steps of the search."""
    batch_answers: int = Field(default=16, gt=0)
    """Answers per step."""


def merge(versions: TensorVersions, config: Config) -> Tensor:
    """`versions.found` is what `coefficients` returned. Raises ValueError without it."""
    if versions.found is None:
        raise ValueError("AdaMerging needs its coefficients before it merges")
    column = versions.num_layers if versions.layer is None else versions.layer
    merged = base(versions).clone()
    for task, shares in zip(task_vectors(versions), versions.found.shares, strict=True):
        merged.add_(task, alpha=shares[column])
    return merged


def mean_entropy(logits_NV: Tensor) -> Tensor:
    """Nats; with gradient."""
    logprobs_NV = logits_NV.log_softmax(dim=-1)
    return -(logprobs_NV.exp() * logprobs_NV).sum(dim=-1).mean()


def coefficients(search: CoefficientSearch, config: Config) -> Coefficients:
    """Find the λ. Raises InputError without answers."""
    import torch

    sequences = with_answers(search.sequences)
    columns = len(search.linear_layers) + 1
    shares_ML = torch.full((search.num_models, columns), config.start, requires_grad=True)
    optimiser = torch.optim.Adam([shares_ML], lr=config.lr)
    trajectory: list[Mapping[str, float]] = []
    for batch in batches(sequences, config.batch_answers, config.steps, search.seed):
        entropy = mean_entropy(search.logits(shares_ML, batch)[0])
        trajectory.append({"average/entropy": float(entropy.detach())})
        optimiser.zero_grad()
        entropy.backward()
        optimiser.step()
        with torch.no_grad():
            shares_ML.clamp_(0.0, 1.0)
    return Coefficients(tuple(map(tuple, shares_ML.tolist())), tuple(trajectory))
