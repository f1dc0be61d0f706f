"""How much work a stage is, in words that can be multiplied by hand."""

from __future__ import annotations

import math

from posttrain.config.answers import GenerateStage, OverOptimisationStage
from posttrain.config.offline import OfflineStage, PreferenceStage, RewardModelStage, SftStage
from posttrain.config.pipeline import Cluster, EvaluateStage, OnlineRlStage, Pipeline
from posttrain.config.tasks import suite_tasks
from posttrain.ports import Needs
from posttrain.stages.schedule import steps_ahead


def describe(
    name: str, pipeline: Pipeline, cluster: Cluster, rows: int | None, needs: Needs
) -> str:
    """One sentence on a stage's work; empty for stages without any to speak of.

    `rows` is the number of rows of its data, where that is known; `needs` what its algorithm asks
    for.
    """
    stage = pipeline.stages.get(name)
    if isinstance(stage, OnlineRlStage):
        return f"{name}: {_online_rl(stage, cluster, needs.greedy)}"
    if isinstance(stage, SftStage | PreferenceStage | RewardModelStage):
        return f"{name}: {_offline(stage, stage.batch.rows, rows, needs)}"
    if isinstance(stage, GenerateStage):
        return f"{name}: {_generate(stage, rows)}"
    if isinstance(stage, OverOptimisationStage):
        models, prompts = len(stage.models) + 1, stage.prompts
        total = count(models * prompts, "answer")
        return f"{name}: {count(models, 'model')} × {count(prompts, 'prompt')} = {total}"
    if isinstance(stage, EvaluateStage) and stage.suite.use in pipeline.suites:
        return f"{name}: {_evaluate(stage, pipeline)}"
    return ""


def number(value: int) -> str:
    """`number(15360)` is `15 360`."""
    return f"{value:,}".replace(",", " ")


def count(value: int, noun: str) -> str:
    """`count(1, "sample")` is `1 sample`, `count(8, "sample")` is `8 samples`."""
    return f"{number(value)} {noun}{'' if value == 1 else 's'}"


def _online_rl(stage: OnlineRlStage, cluster: Cluster, greedy: bool) -> str:
    prompts, samples = stage.batch.prompts, stage.batch.samples_per_prompt
    ahead = steps_ahead(stage, cluster, greedy)
    rollouts = prompts * samples
    parts, passes = stage.batch.optimiser_steps, stage.batch.epochs
    trained = f" of {count(parts, 'optimiser step')}" if parts > 1 else ""
    if passes > 1:
        each = f" of {count(parts, 'optimiser step')} each" if parts > 1 else ""
        trained = f" of {passes} passes{each}"
    also = f" (and {count(prompts, 'greedy answer')})" if greedy else ""
    return (
        f"{count(prompts, 'prompt')} × {count(samples, 'sample')} = {count(rollouts, 'rollout')}"
        f"{also}"
        f" = 1 step{trained} = 1 new weight version; {count(stage.steps, 'step')} ="
        f" {count(rollouts * stage.steps, 'rollout')}; at most ({ahead} + 1) × {number(prompts)} ="
        f" {count((ahead + 1) * prompts, 'group')} under way"
    )


def _offline(stage: OfflineStage, batch: int, rows: int | None, needs: Needs) -> str:
    noun = "row" if isinstance(stage, SftStage) or needs.judged else "pair"
    members = ""
    if isinstance(stage, RewardModelStage) and stage.members > 1:
        members = f"; {stage.members} members, each so"
    if isinstance(stage, RewardModelStage) and stage.augment and stage.steps is None:
        members = f", and {stage.augment.variants} variants of each at most{members}"
    per_step = f"{count(batch, noun)} = 1 step"
    if stage.steps is not None:
        total = count(batch * stage.steps, noun)
        return f"{per_step}; {count(stage.steps, 'step')} = {total}{members}"
    epochs = stage.epochs or 1
    passes = f"{epochs:g} epoch{'' if epochs == 1 else 's'}"
    if rows is None:
        return f"{per_step}; {passes} of {stage.data.shown}"
    held = min(stage.holdout_rows, rows // 5)
    trained = rows - held
    steps = math.ceil(trained * epochs / batch)
    held_out = f" ({number(held)} held out)" if held else ""
    fewer = any(part.decontaminate for part in stage.data.parts.values())
    most = "at most " if fewer else ""
    return (
        f"{per_step}; {most}{count(trained, noun)}{held_out} × {passes} = {count(steps, 'step')}"
        f"{members}"
    )


def _generate(stage: GenerateStage, rows: int | None) -> str:
    samples = stage.samples_per_prompt
    if rows is None:
        return f"{count(samples, 'answer')} to each prompt of {stage.data.shown}"
    return (
        f"{count(rows, 'prompt')} × {count(samples, 'sample')} = {count(rows * samples, 'answer')}"
    )


def _evaluate(stage: EvaluateStage, pipeline: Pipeline) -> str:
    suite = pipeline.suites[stage.suite.use]
    models, tasks = len(stage.models), len(suite_tasks(suite))
    prompts = stage.suite.prompts_per_task or suite.prompts_per_task
    return (
        f"{count(models, 'model')} × {count(tasks, 'task')} × {count(prompts, 'prompt')}"
        f" = {count(models * tasks * prompts, 'answer')}"
    )
