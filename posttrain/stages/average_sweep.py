"""The `average` stage with several shares: a model of each, the same questions, one that is kept.

    shares x (the method, and one share for all layers beside it) --> models --> suite --> front

The front is every model's gain and tax: what each share buys, and whether the method buys it for
less than uniform averaging does; one number says so of a whole line, its hypervolume. Kept is the
model of the method that the rule says; the others are removed, for they can be made again from what
is written down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.config.average import AverageStage
from posttrain.config.plugins import load_plugin
from posttrain.config.suites import Suite
from posttrain.errors import StageFailed
from posttrain.files import put_in_place
from posttrain.ops import fronts
from posttrain.stages.average import average_folders, average_job
from posttrain.stages.context import StageContext
from posttrain.stages.jobs import PluginRef
from posttrain.stages.measure import Measurement
from posttrain.stages.meter import SuiteMeter
from posttrain.stages.recommend import recommend, tax

FRONT = "front.json"
UNIFORM = "linear"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One averaged model. Example: Candidate("layerwise", 0.2, Path(".../layerwise-0.2"))"""

    method: str
    weight_pre: float
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.method} {self.weight_pre:g}"


def run(
    stage: AverageStage,
    method: PluginRef,
    meter: SuiteMeter,
    context: StageContext,
) -> tuple[str, dict[str, Any]]:
    """("done", what becomes front.json). Raises StageFailed where no model satisfies the rule."""
    suite = meter.suite
    assert suite.tax_since is not None  # `check` has seen to it
    measured: dict[str, Measurement] = {}
    since = meter.measure(context.inputs[suite.tax_since].path)
    measured[suite.tax_since] = since
    candidates = [
        _made(stage, method, share, context, step) for step, share in enumerate(stage.shares)
    ]
    if method.name != UNIFORM:
        plain = PluginRef("averaging", UNIFORM, _defaults(), method.base_dir)
        candidates += [_made(stage, plain, share, context, None) for share in stage.shares]
    points: dict[str, dict[str, Any]] = {}
    for step, each in enumerate(candidates):
        context.tracker.event("asking", text=f"{each.name} is asked")
        measured[each.name] = meter.measure(str(each.folder))
        points[each.name] = _point(each, suite, since, measured[each.name])
        if each.method == method.name:  # the first of the candidates, in the shares' order
            context.tracker.log(_in_points(points[each.name]), step=step)
    own = {each.name: measured[each.name] for each in candidates if each.method == method.name}
    choice = recommend(stage.recommend, suite, own | {suite.tax_since: since})
    kept = next((each for each in candidates if each.name == choice.stage), None)
    told = [points[each.name] | {"chosen": each is kept} for each in candidates]
    front = {
        "schema": 1,
        "suite": meter.use,
        "points": told,
        "hypervolume": _hypervolume(told),
        "why": choice.why,
    }
    if kept is None:
        most = stage.recommend.tax_at_most
        raise StageFailed(
            f"no share is worth it: none with a tax of at most {most:g} points gains more than "
            f"`{suite.tax_since}`",
            help="larger shares of `pre`, or recommend: {tax_at_most: ...} of the stage",
        )
    put_in_place(kept.folder, context.directory / "model")
    return "done", front


def _made(
    stage: AverageStage, method: PluginRef, share: float, context: StageContext, step: int | None
) -> Candidate:
    """One model, unless an earlier attempt has made it. Metrics of the stage's own at `step`."""
    made = Candidate(method.name, share, context.directory / "shares" / f"{method.name}-{share:g}")
    if not made.folder.exists():
        context.tracker.event("averaging", text=f"{made.name} is made")
        job = average_job(stage, method, share, context)
        rows = context.launcher.call(average_folders, job, str(made.folder))
        if step is not None:
            context.tracker.log(rows[-1], step=step)
    return made


def _defaults() -> dict[str, Any]:
    config: dict[str, Any] = load_plugin("averaging", UNIFORM).Config().model_dump(mode="json")
    return config


def _point(made: Candidate, suite: Suite, since: Measurement, found: Measurement) -> dict[str, Any]:
    cost = tax(suite, since, found)
    return {
        "method": made.method,
        "weight_pre": made.weight_pre,
        "gain": found.gain.as_dict() if found.gain else None,
        "tax": cost.as_dict() if cost else None,
    }


def _hypervolume(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of each method's line, in shares squared; of models that have both a gain and a tax."""
    lines: dict[str, list[fronts.Point]] = {point["method"]: [] for point in points}
    for point in points:
        if point["gain"] is not None and point["tax"] is not None:
            lines[point["method"]].append((point["gain"]["value"], point["tax"]["value"]))
    gain, tax = fronts.WORST
    areas = {method: fronts.hypervolume(line) for method, line in lines.items()}
    return {"reference": {"gain": gain, "tax": tax}, "of": areas}


def _in_points(point: Mapping[str, Any]) -> dict[str, float]:
    values = {key: point[key] for key in ("gain", "tax") if point[key] is not None}
    return {f"average/{key}_points": 100 * each["value"] for key, each in values.items()}
