"""What a run folder holds of a plan: measurements, points, the recommended model."""

from __future__ import annotations

from pathlib import Path

from posttrain.config.pipeline import EvaluateStage
from posttrain.pipeline.plan import PlannedStage, RunPlan
from posttrain.pipeline.store import RunFolder, StageFolder, read_json
from posttrain.stages.statistics import difference
from posttrain.types import Interval


def asked_suites(plan: RunPlan, stage: PlannedStage) -> list[str]:
    """Suites asked of a stage's model as soon as it is done; random weights know nothing."""
    if stage.stage.produces != "model" or getattr(stage.stage, "from_scratch", None):
        return []
    return [name for name, suite in plan.suites.items() if suite.when == "every_model"]


def measurement_path(folder: StageFolder, suite: str) -> Path:
    return folder.path / "measurements" / f"{suite}.json"


def is_measured(folder: StageFolder, suite: str, fingerprint: str) -> bool:
    """Whether these very questions were asked of this very model."""
    document = read_json(measurement_path(folder, suite))
    return bool(document and document["fingerprint"] == fingerprint)


def unmeasured(plan: RunPlan, folder: RunFolder) -> list[tuple[str, str]]:
    """(stage, suite) of what is still to be asked."""
    return [
        (stage.name, suite)
        for stage in plan.stages
        for suite in asked_suites(plan, stage)
        if not is_measured(
            folder.stage(stage.name, stage.identity), suite, plan.fingerprints[suite]
        )
    ]


def is_complete(plan: RunPlan, folder: RunFolder) -> bool:
    """Whether every stage is done and every model was asked: then no process needs to start."""
    return not plan.to_do and not unmeasured(plan, folder)


def task_values(plan: RunPlan, folder: RunFolder, stage: PlannedStage) -> dict[str, Interval]:
    """A stage's results by task, with `gain` and `tax`: what gates compare."""
    values: dict[str, Interval] = {}
    own = folder.stage(stage.name, stage.identity)
    for name, suite in plan.suites.items():
        document = read_json(measurement_path(own, name))
        if not document:
            continue
        for task, entry in document["tasks"].items():
            values[task] = Interval(entry["value"], entry["low"], entry["high"])
        points = {key: Interval(**entry) for key, entry in document["points"].items()}
        if "gain" in points:
            values["gain"] = points["gain"]
        before = _kept_since(plan, folder, name, suite.tax_since)
        if before is not None and "keep" in points:
            values["tax"] = difference(before, points["keep"])
    return values


def _kept_since(plan: RunPlan, folder: RunFolder, suite: str, since: str | None) -> Interval | None:
    if since is None:
        return None
    stage = plan[since]
    document = read_json(measurement_path(folder.stage(since, stage.identity), suite))
    entry = (document or {}).get("points", {}).get("keep")
    return Interval(**entry) if entry else None


def recommended(plan: RunPlan, folder: RunFolder) -> str | None:
    """The model that the last evaluate stage with a rule recommends."""
    for planned in reversed(plan.stages):
        if isinstance(planned.stage, EvaluateStage) and planned.stage.recommend:
            own = folder.stage(planned.name, planned.identity)
            return (read_json(own.path / "measurements.json") or {}).get("recommended")
    return None
