"""Tasks that need no definition of their own, and how a suite's tasks are looked up."""

from __future__ import annotations

from collections.abc import Mapping

from posttrain.config.answers import ScoredReward
from posttrain.config.average import AverageStage
from posttrain.config.data import DataSpec, ResolvedData
from posttrain.config.pipeline import EvaluateStage
from posttrain.config.stage_base import StageBase
from posttrain.config.suites import Suite, SuiteUse, TaskSpec

_SKILLS = ("copy", "reverse", "sort", "count")

HARNESS = "lm_eval/"
"""Tasks whose names begin so are the lm-evaluation-harness's."""

BUILT_IN: dict[str, TaskSpec] = {
    "microworld/arithmetic": TaskSpec(
        data=DataSpec(path="microworld/arithmetic", split="test"),
        reward=ScoredReward(name="arithmetic"),
        max_new_tokens=32,
    ),
    **{
        f"microworld/{skill}": TaskSpec(
            data=DataSpec(path=f"microworld/{skill}", split="test"),
            reward=ScoredReward(name="skill"),
            max_new_tokens=16,
        )
        for skill in _SKILLS
    },
    "gsm8k": TaskSpec(
        data=DataSpec(
            path="openai/gsm8k", name="main", split="test", columns={"prompt": "question"}
        ),
        reward=ScoredReward(name="gsm8k"),
        max_new_tokens=512,
    ),
    "perplexity/wikitext": TaskSpec(
        data=DataSpec(path="Salesforce/wikitext", name="wikitext-2-raw-v1", split="test"),
    ),
}


def task_spec(suite: Suite, task: str) -> TaskSpec:
    """The suite's own definition of a task, else the built-in one; KeyError without either."""
    return suite.tasks[task] if task in suite.tasks else BUILT_IN[task]


def suite_tasks(suite: Suite) -> list[str]:
    """Every task of a suite once: what training should raise first, then what it may cost."""
    return list(dict.fromkeys([*suite.gain, *suite.keep]))


def harness_tasks(suite: Suite) -> list[str]:
    """The tasks that the lm-evaluation-harness asks, `lm_eval/` in front."""
    return [each for each in suite_tasks(suite) if is_harness(suite, each)]


def row_tasks(suite: Suite) -> list[str]:
    """The tasks whose questions are rows of a data set: all but the harness's."""
    return [each for each in suite_tasks(suite) if not is_harness(suite, each)]


def is_harness(suite: Suite, task: str) -> bool:
    """Whether the harness asks a task; a definition of the suite's own comes first."""
    return task.startswith(HARNESS) and task not in suite.tasks


def asked_suite(stage: StageBase, suites: Mapping[str, Suite]) -> SuiteUse | None:
    """The suite that a stage asks itself: of an evaluation, and of an average that chooses among
    models, where it is the first one unless it says so.
    """
    if isinstance(stage, EvaluateStage):
        return stage.suite
    if not isinstance(stage, AverageStage) or not stage.asks:
        return None
    return stage.suite or next((SuiteUse(use=name) for name in suites), None)


def suite_questions(suite: Suite) -> dict[str, DataSpec]:
    """Where the questions of a suite's tasks come from. Perplexity asks none: it reads text; the
    harness keeps its own.
    """
    specs = {task: task_spec(suite, task) for task in row_tasks(suite)}
    return {task: spec.data for task, spec in specs.items() if spec.reward is not None}


def resolved(data: DataSpec, suites: Mapping[str, Suite]) -> ResolvedData:
    """Data with the questions that its rows are compared with; KeyError for an unknown suite."""
    named = {part.decontaminate for part in data.parts.values() if part.decontaminate}
    questions = {name: suite_questions(suites[name]) for name in sorted(named)}
    return ResolvedData(**data.model_dump(exclude={"questions"}), questions=questions)
