"""Suites: what models are asked, and the rule that says which of them to take."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from posttrain.config.answers import ScoredReward
from posttrain.config.data import Data, DataSpec
from posttrain.config.strict import Contradiction, StrictModel


class TaskSpec(StrictModel):
    """One named list of questions, or one text for perplexity."""

    data: Data
    """Where the questions (or the text) come from; held out from training."""
    reward: ScoredReward | None = None
    """The verifier that says right or wrong; none means perplexity of the column `text`."""
    max_new_tokens: int = Field(default=64, gt=0)
    """Longest answer that is waited for."""

    @field_validator("data")
    @classmethod
    def _of_one_data_set(cls, data: DataSpec) -> DataSpec:
        if data.mix:
            raise Contradiction("a task asks one data set", "a task for each part of `mix`")
        if data.decontaminate:
            raise Contradiction(
                "questions are what rows are compared with", "`decontaminate` in a stage's data"
            )
        if data.stage:
            raise Contradiction(
                "a suite is asked of every model, and no stage comes before all of them",
                "path: the file or data set with the questions",
            )
        return data


class LmEval(StrictModel):
    """How a suite's `lm_eval/NAME` tasks are asked: those of the lm-evaluation-harness."""

    tasks: str | None = None
    """A folder with task files of your own, in the harness's YAML; paths in them start there."""
    metrics: dict[str, str] = Field(default_factory=dict)
    """Which number of a task counts, `{hellaswag: acc_norm}`; else its first that is a share."""
    chat_template: bool = False
    """Ask through the model's chat template; else the task's bare text, as the harness does."""


class Suite(StrictModel):
    """Named lists of questions asked of models. Not a stage, so asking never forms a cycle."""

    gain: list[str] = Field(default_factory=list)
    """Tasks that training should raise."""
    keep: list[str] = Field(default_factory=list)
    """Tasks that training may cost: the alignment tax. Perplexity is shown, never averaged in."""
    tasks: dict[str, TaskSpec] = Field(default_factory=dict)
    """Tasks of your own, by name; built in are `microworld/...`, `gsm8k`, `perplexity/wikitext`."""
    lm_eval: LmEval = Field(default_factory=LmEval)
    """How `lm_eval/NAME` tasks are asked."""
    prompts_per_task: int = Field(default=256, gt=0)
    """Questions asked per task; the interval shrinks with its square root."""
    when: Literal["every_model", "only_final"] = "every_model"
    """Ask each model as soon as its stage is done, or only where an evaluate stage says so."""
    tax_since: str | None = None
    """The stage whose model the tax is counted from."""
    temperature: float = Field(default=1.0, ge=0.0)
    """Sampling temperature of the answers; 0 is greedy, 1 measures the policy itself."""


class SuiteUse(StrictModel):
    """A suite with some settings changed: `{use: abilities, prompts_per_task: 1024}`."""

    use: str
    """Name of a suite under `suites`."""
    prompts_per_task: int | None = Field(default=None, gt=0)
    """Questions per task, in place of the suite's own number."""


class Recommend(StrictModel):
    """Which model to take: the most of one thing, with the tax bounded."""

    most: Literal["gain"] = "gain"
    """What to maximise."""
    tax_at_most: float = Field(default=3.0, ge=0.0)
    """Points of tax a recommended model may have."""
