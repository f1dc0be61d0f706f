"""Layer swapping: the outer layers of one expert around the inner layers of another.

    bottom layers, embeddings    from the second model
    transition                   mean of both
    middle layers                from the first model
    transition                   mean of both
    top layers, last norm, head  from the second model

Bandarkar et al., *Layer Swapping for Zero-Shot Cross-Lingual Transfer*, arXiv 2410.01335: the first
model was trained on a task in English, the second on a language, both from one base. Understanding
and writing the language sits mostly in the outer layers, the task in the inner ones. Assumes that;
compare both experts' changes per layer first. Typical are 4 to 6 layers at the bottom and 2 to 4 at
the top of 32. Degenerate case: ends that meet leave nothing of the first model, and are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from posttrain.averaging._vectors import mixed
from posttrain.config.strict import StrictModel
from posttrain.errors import InputError, Problem
from posttrain.ports import AveragingNeeds, TensorVersions

if TYPE_CHECKING:
    from torch import Tensor

NEEDS = AveragingNeeds(min_models=2, max_models=2)


class Config(StrictModel):
    """Settings of layer swapping; `models` are the inner expert and the outer one."""

    bottom: int = Field(default=5, gt=0)
    """Layers at the bottom that come from the second model, with the embeddings."""
    top: int = Field(default=3, gt=0)
    """Layers at the top that come from the second model, with the last norm and the output head."""
    transition: int = Field(default=0, ge=0)
    """Layers next to each end that are the mean of both models."""


def merge(versions: TensorVersions, config: Config) -> Tensor:
    """Raises InputError (`bad-value`) where the ends leave no layer of the first model."""
    inner, outer = versions.models
    return mixed(outer, inner, share_of_outer(versions.layer, versions.num_layers, config))


def share_of_outer(layer: int | None, num_layers: int, config: Config) -> float:
    """1 in the outer layers and outside of all layers, 0.5 in a transition, 0 in between."""
    swapped = config.bottom + config.top + 2 * config.transition
    if swapped >= num_layers:
        message = f"bottom, top and transitions are {swapped} layers, the models have {num_layers}"
        help = "leave layers of the first model in the middle"
        raise InputError(Problem("bad-value", message, "method", help=help))
    if layer is None:
        return 1.0
    from_the_ends = min(layer - config.bottom, num_layers - 1 - layer - config.top)
    if from_the_ends < 0:
        return 1.0
    return 0.5 if from_the_ends < config.transition else 0.0
