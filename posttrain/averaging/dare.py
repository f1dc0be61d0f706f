"""DARE: drop changes at random, and rescale the rest so that the expected change stays the same.

    m ~ Bernoulli(density) per entry,   τ̃_i = m ⊙ τ_i / density,   τ_i = θ_i - θ_pre
    linear: θ = θ_pre + λ · Σ_i w_i τ̃_i        ties: θ = θ_pre + λ · (sign election of TIES on τ̃)

Yu et al., *Language Models are Super Mario*, arXiv 2311.03099. Supervised fine-tuning leaves many
small, redundant changes, of which nine in ten may go; several models then seldom touch one entry.
Assumes small changes: after long training with large ones (continued pre-training), dropping breaks
the model. The mask comes from the stage's seed, the tensor's name and the model's place, so a merge
that is done again, or goes on after an interruption, drops the same entries.
Degenerate case: density 1 drops nothing, and `linear` is task arithmetic.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from posttrain.averaging._election import elected_mean
from posttrain.averaging._vectors import base, task_vectors, weights_of
from posttrain.config.strict import StrictModel
from posttrain.ports import AveragingNeeds, TensorVersions

if TYPE_CHECKING:
    from torch import Tensor

NEEDS = AveragingNeeds(base=True, weights="any")


class Config(StrictModel):
    """Settings of DARE, beside the stage's `weights` (1 each where not given)."""

    density: float = Field(default=0.1, gt=0, le=1)
    """Share of changes that is kept; the paper drops 90 % and more after supervised fine-tuning."""
    combine: Literal["linear", "ties"] = "linear"
    """How the thinned changes of several models become one: added up, or by election of signs."""
    scale: float = 1.0
    """λ: what the change is multiplied with; 0.3 to 0.5 is usual where several are added up."""


def merge(versions: TensorVersions, config: Config) -> Tensor:
    """θ_pre plus the thinned changes. Raises ValueError for `ties` with a negative weight."""
    density = config.density
    tasks = [
        rescaled(task, kept(task, density, versions.seed, versions.name, place), density)
        for place, task in enumerate(task_vectors(versions))
    ]
    weights = weights_of(versions)
    if config.combine == "ties":
        return elected_mean(tasks, weights).mul_(config.scale).add_(base(versions))
    merged = base(versions).clone()
    for task, weight in zip(tasks, weights, strict=True):
        merged.add_(task, alpha=config.scale * weight)
    return merged


def rescaled(task: Tensor, kept_mask: Tensor, density: float) -> Tensor:
    """m ⊙ τ / density."""
    return (task * kept_mask).div_(density)


def kept(like: Tensor, density: float, seed: int, name: str, place: int) -> Tensor:
    """Which entries stay, as booleans of the tensor's shape; the same for the same arguments."""
    import torch

    digest = hashlib.sha256(f"{seed}/{name}/{place}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.rand(like.shape, generator=generator) < density
