"""EMA: an exponential moving average over models in the order in which training made them.

    e_0 = θ_0,   e_t = d_t · e_{t-1} + (1 - d_t) · θ_t,   d_t = min(d, (1 + t') / (10 + t'))

with t' the updates before this one. Polyak and Juditsky 1992 average iterates uniformly; this
forgets old ones. The warm-up is that of TensorFlow's moving averages. Averages out the noise of the
last steps, which a high learning rate leaves. Assumes that models come in equal intervals. Without
the warm-up and with few models, the first one keeps nearly all the weight: d = 0.99 after two
updates still holds 98 % of it. Degenerate case: a decay of 0 gives the last model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from posttrain import ops
from posttrain.config.strict import StrictModel
from posttrain.ports import AveragingNeeds, TensorVersions

if TYPE_CHECKING:
    from torch import Tensor

NEEDS = AveragingNeeds(min_models=2)


class Config(StrictModel):
    """Settings of EMA; `models` stand in the order of training."""

    decay: float = Field(default=0.99, ge=0, lt=1)
    """d: what is kept of the average at each model."""
    warm_up: bool = True
    """Begin with a smaller decay, so that the first model does not weigh most of all."""


def merge(versions: TensorVersions, config: Config) -> Tensor:
    """The average after the last model."""
    average = versions.models[0]
    for updates, model in enumerate(versions.models[1:]):
        decay = ops.ema.decay_at(updates, config.decay) if config.warm_up else config.decay
        average = ops.ema.updated(average, model, decay)
    return average
