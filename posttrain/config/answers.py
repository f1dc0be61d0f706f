"""Answers: how they are drawn and scored, and the stages that make and judge sets of them."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from posttrain.config.data import Data
from posttrain.config.plugin import Plugin, RewardPlugin
from posttrain.config.stage_base import StageBase
from posttrain.config.strict import Contradiction, StrictModel

PROCESS_MEMORY_MB = 4096  # of a process that scores, unless a file says otherwise


class ScoredReward(RewardPlugin):
    """A reward, and how the processes that score with it are held to their limits."""

    timeout_s: float | None = Field(default=None, gt=0)
    """A verifier that takes longer for an answer is killed; the answer is retried, then dropped and
    counted. Empty: 10, or 300 where a part of the reward asks something outside."""
    processes: int = Field(default=1, gt=0)
    """Processes that score side by side. Texts and numbers need one; programs that are run, or
    expressions that are worked out, take tens of milliseconds each and want more."""
    process_memory_mb: int = Field(default=PROCESS_MEMORY_MB, gt=0)
    """Address space of a verifier's process; one that wants more is broken, not wrong."""


class AnswerSampling(StrictModel):
    """How the engines sample."""

    temperature: float = Field(default=1.0, gt=0.0)
    """Trainer log-probs are taken at the same temperature."""
    max_new_tokens: int = Field(default=256, gt=0)
    """Token limit of one answer; what reaches it is cut and counted."""


class GenerateStage(StageBase):
    """Asks a model many times, scores its answers, and keeps what a later stage shall learn from:
    pairs for `preference` and `reward_model`, answers for `sft`."""

    produces: ClassVar[str] = "dataset"
    kind: Literal["generate"]
    """`generate`."""
    model: str
    """The stage whose model answers."""
    data: Data
    """Rows with `prompt` and whatever the reward and the selection read."""
    samples_per_prompt: int = Field(default=8, gt=0)
    """Answers per prompt."""
    sampling: AnswerSampling = AnswerSampling()
    """Temperature and token limit."""
    scored_by: ScoredReward | None = None
    """What scores the answers: a verifier, an ensemble of reward models (`{ensemble: rm, combine:
    uwo}`), or several combined. Empty: they are kept without scores."""
    select: Plugin = Plugin(name="everything")
    """A file in posttrain/selection/ that says what becomes a row: `best_worst`, `best`, `dno`."""


class BestOfNStage(StageBase):
    """What is gained by asking n times and keeping the answer that a reward likes best, for every n
    up to the number of answers there are; true quality against the distance from the model."""

    produces: ClassVar[str] = "measurements"
    kind: Literal["best_of_n"]
    """`best_of_n`."""
    samples: str
    """The `generate` stage whose answers are chosen from."""
    scored_by: ScoredReward
    """The reward that chooses."""
    gold: ScoredReward
    """The reward that says what the chosen answer is really worth."""
    by_part: bool = False
    """Where the reward that chooses is made of others (`combine: weighted`): also what each part
    would choose by itself. Reward models that several parts share score once."""
    n: list[int] = Field(default_factory=list)
    """How many answers to choose from. Empty: 1, 2, 4, ... up to the answers per prompt."""

    @field_validator("n")
    @classmethod
    def _ascending(cls, n: list[int]) -> list[int]:
        if any(each < 1 for each in n) or n != sorted(set(n)):
            wanted = sorted({each for each in n if each >= 1})
            raise Contradiction("has to be whole numbers of 1 or more, ascending", f"n: {wanted}")
        return n


class OverOptimisationStage(StageBase):
    """How true quality rises and falls with the distance that training has gone: models of a sweep,
    their distance from the model they started from, and the law that joins them."""

    produces: ClassVar[str] = "measurements"
    kind: Literal["over_optimisation"]
    """`over_optimisation`."""
    model: str
    """The stage whose model training started from: distance 0."""
    models: list[str] = Field(min_length=2)
    """Stages that trained it, by different amounts: other `beta`, steps or rates."""
    data: Data
    """Rows with `prompt` and whatever the gold reward reads; held out from training."""
    gold: ScoredReward
    """The reward that says what answers are really worth."""
    prompts: int = Field(default=256, gt=0)
    """Prompts that each model answers once."""
    max_new_tokens: int = Field(default=256, gt=0)
    """Token limit of one answer. Answers are drawn at temperature 1: the policy itself."""
