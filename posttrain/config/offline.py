"""Stages that train on rows: supervised fine-tuning, reward models, and preferences."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from posttrain.config.data import Data
from posttrain.config.lora import Lora
from posttrain.config.plugin import Plugin
from posttrain.config.restraints import EarlyStopping, RestrainedStage
from posttrain.config.stage_base import StageBase
from posttrain.config.strict import StrictModel

MOST_MEMBERS = 64  # of an ensemble


class RowBatch(StrictModel):
    """How many rows make one optimiser step."""

    rows: int = Field(default=32, gt=0)
    """Rows per optimiser step, over all trainers."""
    tokens_per_micro_batch: int = Field(default=8192, gt=0)
    """Most tokens that one forward pass holds; micro-batches are packed, not padded."""


class PairBatch(StrictModel):
    """How many comparisons make one optimiser step."""

    rows: int = Field(default=64, gt=0)
    """Comparisons per optimiser step, over all trainers; each has two answers."""
    tokens_per_micro_batch: int = Field(default=8192, gt=0)
    """Most tokens that one forward pass holds, both answers and padding counted. Comparisons of
    like length share a pass."""


class OfflineStage(StageBase):
    """Keys of every stage that trains on rows."""

    needs: ClassVar[tuple[str, ...]] = ()
    """Columns that its rows must have."""
    model: str
    """The stage whose model is trained."""
    data: Data
    """Rows to train on."""
    lora: Lora | None = None
    """Train LoRA adapters (`{rank: 16}`) in place of all weights; the model folder is merged."""
    steps: int | None = Field(default=None, gt=0)
    """Optimiser steps; give this or `epochs`."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the rows; 1 where neither is given."""
    max_tokens: int | None = Field(default=None, gt=0)
    """Longest row, prompt and completion; the model's context where not given."""
    holdout_rows: int = Field(default=64, ge=0)
    """Rows kept out of training to measure with; a fifth of them at most."""

    @model_validator(mode="after")
    def _one_length(self) -> OfflineStage:
        if self.steps is not None and self.epochs is not None:
            raise ValueError("give `steps` or `epochs`, not both")
        return self


class SftStage(OfflineStage, RestrainedStage):
    """Supervised fine-tuning: the model learns to give the completions of the rows."""

    needs: ClassVar[tuple[str, ...]] = ("prompt", "completion")
    kind: Literal["sft"]
    """`sft`."""
    data: Data
    """Rows with `prompt` and `completion`, or `messages`."""
    algorithm: Plugin = Plugin(name="sft")
    """The offline algorithm and its settings (lr, schedule, ...)."""
    batch: RowBatch = RowBatch()
    """Rows per step."""
    early_stopping: EarlyStopping | None = Field(
        default=None, exclude_if=lambda value: value is None
    )
    """Ends training where the loss on held-out rows no longer falls (`{patience: 2}`); the stage's
    model has the weights of the lowest."""


class Augment(StrictModel):
    """Spelling variants of prompts, to train on beside them. `{}` takes the defaults."""

    variants: int = Field(default=5, gt=0, le=100)
    """Made of each prompt; those are kept whose states are corners of the convex hull of all."""
    noise: float = Field(default=0.05, gt=0, le=1)
    """Share of a prompt's words with a slip; at least one has one."""


class RewardModelStage(OfflineStage):
    """Trains models that say by one number which of two answers people prefer: an ensemble."""

    needs: ClassVar[tuple[str, ...]] = ("chosen", "rejected")
    produces: ClassVar[str] = "reward_models"
    kind: Literal["reward_model"]
    """`reward_model`."""
    model: str
    """The stage whose model the members start from; its output layer gives way to a new head."""
    data: Data
    """Rows with `chosen` and `rejected`, texts beside a `prompt`, or whole conversations."""
    members: int = Field(default=4, gt=0, le=MOST_MEMBERS)
    """Members of the ensemble: same data and settings, each with its own seed for the new head and
    the order of the rows. 4 or 5 have nearly all of the gain, 3 are noticeably worse."""
    algorithm: Plugin = Plugin(name="reward_model")
    """The offline algorithm and its settings (lr, schedule, ...)."""
    batch: PairBatch = PairBatch()
    """Comparisons per step."""
    holdout_rows: int = Field(default=256, ge=0)
    """Comparisons kept out of training, the same for every member: its accuracy and calibration,
    and the mean and spread by which its scores are standardised. A fifth of the rows at most."""
    # Not told where it is not asked for: identities of stages without stay what they were.
    augment: Augment | None = Field(default=None, exclude_if=lambda value: value is None)
    """Trains on misspelt prompts too, with the same two answers (ConvexDA): `{variants: 5}`."""


class PreferenceStage(OfflineStage, RestrainedStage):
    """Learns from comparisons directly: the chosen answer likelier, the rejected one less so."""

    needs: ClassVar[tuple[str, ...]] = ("chosen", "rejected")
    kind: Literal["preference"]
    """`preference`."""
    model: str
    """The stage whose model is trained; also the reference."""
    data: Data
    """Rows with `chosen` and `rejected`, texts beside a `prompt`, or whole conversations."""
    algorithm: Plugin
    """The offline algorithm: `dpo`, or `{name: dpo_norm, beta: 5}`."""
    batch: PairBatch = PairBatch()
    """Comparisons per step."""
    early_stopping: EarlyStopping | None = Field(
        default=None, exclude_if=lambda value: value is None
    )
    """Ends training where no more held-out comparisons are told apart (`{patience: 2}`); the
    stage's model has the weights that told most apart."""
