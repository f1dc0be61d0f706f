"""The `average` stage: weights of several models, mixed into one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from posttrain.config.average import AverageStage
from posttrain.config.plugins import load_plugin
from posttrain.ports import AveragingNeeds
from posttrain.stages.average_answers import ROLLOUTS, AnswerSource
from posttrain.stages.context import StageContext
from posttrain.stages.jobs import PluginRef


@dataclass(frozen=True, slots=True)
class AverageJob:
    """What is averaged, and how. Folders go by the names of the stages that made them."""

    method: PluginRef
    models: tuple[tuple[str, str], ...]  # (stage, folder): `post` alone, or `models` in order
    pre: tuple[str, str] | None
    weight_pre: float
    weights: tuple[float, ...]
    seed: int
    answers: AnswerSource | None = None  # for methods that look at some


def run(stage: AverageStage, method: PluginRef, context: StageContext) -> str:
    """Write the averaged model; returns "done"."""
    job = average_job(stage, method, stage.shares[0], context)
    rows = context.launcher.call(average_folders, job, str(context.directory / "model"))
    for step, metrics in enumerate(rows):
        context.tracker.log(metrics, step=step)
    return "done"


def average_job(
    stage: AverageStage, method: PluginRef, weight_pre: float, context: StageContext
) -> AverageJob:
    """The job of one share."""

    def folder(name: str) -> tuple[str, str]:
        return name, context.inputs[name].path

    needs = load_plugin("averaging", method.name, method.base_dir).NEEDS
    return AverageJob(
        method,
        tuple(folder(name) for name in stage.merged),
        folder(stage.pre) if stage.pre is not None else None,
        weight_pre,
        tuple(stage.weights or ()),
        context.seed,
        _answers(stage, context) if needs.answers else None,
    )


def _answers(stage: AverageStage, context: StageContext) -> AnswerSource:
    """Those of a `generate` stage; else the rollouts beside the model of `post`."""
    samples = stage.samples
    if samples.stage is not None:
        folder = context.inputs[samples.stage].path
    else:
        folder = str(Path(context.inputs[stage.merged[0]].path).parent / ROLLOUTS)
    return AnswerSource(folder, samples.take, samples.keep_best)


def average_folders(job: AverageJob, target: str) -> list[dict[str, float]]:
    """Average model folders into another. Runs in a process of its own.

    Returns rows of metrics: those of a search for coefficients, where the method has one, step by
    step; the last row also has what the models say of one another. A method without a search makes
    one row.
    """
    from posttrain.config.plugins import plugin_config
    from posttrain.model.merged_folder import MergeSources, check_alike, merge_folders
    from posttrain.model.stored_tensors import stored_model

    module = load_plugin(job.method.kind, job.method.name, job.method.base_dir)
    config = plugin_config(module, job.method.settings)
    sources = MergeSources(
        tuple(stored_model(folder, stage) for stage, folder in job.models),
        stored_model(job.pre[1], job.pre[0]) if job.pre is not None else None,
        job.weight_pre,
        job.weights,
        job.seed,
    )
    check_alike(sources)
    rows: list[dict[str, float]] = []
    found: Any = None
    if module.NEEDS.answers:
        found = _search(job, module, config)
        rows += map(dict, found.trajectory)
    elif hasattr(module, "survey"):
        found = module.survey(sources.tensors, config)
    identity = {
        "method": module.__name__,
        "source": getattr(module, "__source_sha256__", ""),
        "config": config.model_dump(mode="json"),
        "found": repr(found),
    }
    merge_folders(
        sources, Path(target), lambda versions: module.merge(versions, config), identity, found
    )
    last = rows.pop() if rows else {}
    return [*rows, last | _compared(sources.tensors(), module, config, job)]


def _search(job: AverageJob, module: ModuleType, config: Any) -> Any:
    """Coefficients that the method finds on answers, with all models in memory."""
    from posttrain.model.interpolated import InterpolatedModel
    from posttrain.model.load import load_model
    from posttrain.ports import CoefficientSearch

    assert job.pre is not None and job.answers is not None  # `check` has seen to it
    model = InterpolatedModel(
        load_model(job.pre[1]), [load_model(folder) for _, folder in job.models]
    )
    search = CoefficientSearch(
        model.logits,
        len(job.models),
        model.linear_layers,
        job.answers.read(),
        job.weight_pre,
        job.seed,
    )
    return module.coefficients(search, config)


def _compared(
    tensors: Iterator[Any], module: ModuleType, config: Any, job: AverageJob
) -> dict[str, float]:
    from posttrain.averaging.distances import agreement, distances

    needs: AveragingNeeds = module.NEEDS
    if needs.pair:
        part = getattr(module, "part", None)
        part_of = (lambda layer, count: part(layer, count, config)) if part else None
        return {"average/weight_pre": job.weight_pre, **distances(tensors, part_of)}
    return agreement(tensors) if needs.base else {}
