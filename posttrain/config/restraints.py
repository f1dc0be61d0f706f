"""How a stage is kept near the model that it starts from, and when it ends before its last step.

The baselines that model averaging is compared with (Lin et al., arXiv 2309.06256), each an option
of the stage that it restrains.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field, model_validator

from posttrain.config.stage_base import StageBase
from posttrain.config.strict import Contradiction, StrictModel


class StartPenalty(StrictModel):
    """What the distance θ - θ_0 to the stage's starting model costs: l1 · Σ|θ - θ_0| + l2/2 ·
    Σ(θ - θ_0)², added to the loss. `{l2: 0.01}` is L2-SP (arXiv 1802.01483).
    """

    l1: float = Field(default=0.0, ge=0.0)
    """Weight of the sum of absolute distances: most weights stay about where they were."""
    l2: float = Field(default=0.0, ge=0.0)
    """Weight of half the sum of squared distances: no weight goes far."""

    @model_validator(mode="after")
    def _costs_something(self) -> StartPenalty:
        if self.l1 == 0 and self.l2 == 0:
            raise Contradiction("costs nothing", "start_penalty: {l2: 0.01}, or {l1: 0.04}")
        return self


class Ema(StrictModel):
    """The stage's model is a moving average of its weights. `{}` takes the defaults."""

    decay: float = Field(default=0.99, ge=0.0, lt=1.0)
    """What is kept of the average at each optimiser step: 0.99 averages about the last 100, 0.999
    the last 1000. It begins smaller, min(decay, (1 + t) / (10 + t)) after t steps."""


class EarlyStopping(StrictModel):
    """Ends training where held-out rows say so, and keeps the weights that they liked best."""

    patience: int = Field(default=2, gt=0)
    """Measurements in a row that are no better than the best one, after which training ends."""
    every: int | None = Field(default=None, gt=0)
    """Steps between two measurements; a fifth of the stage's where not given."""


@dataclass(frozen=True, slots=True)
class Restraints:
    """What a trainer is told of these options."""

    start_penalty: StartPenalty | None = None
    half_fine_tuning: bool = False
    ema: Ema | None = None


UNRESTRAINED = Restraints()


class RestrainedStage(StageBase):
    """Keys of every stage that trains a policy."""

    # Not told where they are not asked for: identities of stages without stay what they were.
    start_penalty: StartPenalty | None = Field(default=None, exclude_if=lambda value: value is None)
    """Charges for the distance to the model that the stage starts from: `{l2: 0.01}` or `{l1:
    0.04}`."""
    half_fine_tuning: bool = Field(default=False, exclude_if=lambda value: value is False)
    """Half of each layer's attention matrices, feed-forward matrices and norms stay as they are
    (HFT); which half the stage's seed says. Embeddings and output head are always trained."""
    ema: Ema | None = Field(default=None, exclude_if=lambda value: value is None)
    """The stage's model is the moving average of the weights it went through: `{decay: 0.999}`."""

    @property
    def restraints(self) -> Restraints:
        return Restraints(self.start_penalty, self.half_fine_tuning, self.ema)
