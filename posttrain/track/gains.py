"""What each stage gained and what it cost, with intervals: the summary's and the report's table.

A change is called noise where zero lies within its 95 % interval. Where two models answered the
same prompts, the interval is that of the paired differences, which is narrower than the one of two
independent samples; elsewhere the two models' own intervals are joined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from posttrain.track.formatting import half_width
from posttrain.track.views import Measurement, RunView, StageView, SuiteView
from posttrain.types import Interval

NORMAL_95 = 1.96


@dataclass(frozen=True, slots=True)
class Change:
    """A difference to the model before, in shares. Example: Change(0.26, 0.03, "dpo")"""

    value: float
    half: float  # half of its 95 % interval
    since: str

    @property
    def is_noise(self) -> bool:
        return abs(self.value) <= self.half

    @property
    def text(self) -> str:
        """`+45`, `-3`, `+1 (noise)`: points."""
        return f"{round(self.value * 100):+d}" + (" (noise)" if self.is_noise else "")


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model's line of the table. Shares are 0..1, perplexities as they are."""

    stage: StageView
    measured: Measurement
    gain: Mapping[str, Interval]  # by task
    keep: Interval | None  # mean over the suite's `keep` tasks
    tax: Interval | None  # keep of `tax_since` minus keep; None for that model itself
    gain_changes: Mapping[str, Change] = field(default_factory=dict)
    keep_change: Change | None = None


def gain_table(view: RunView) -> list[ModelRow]:
    """One row per measured model, in the stages' order; empty where nothing is measured yet."""
    suite, measured = view.suite, measured_models(view)
    if suite is None:
        return []
    return [_row(view, suite, measured, stage) for stage in view.stages if stage.name in measured]


def measured_models(view: RunView) -> dict[str, Measurement]:
    """The best measurement of each model: the last evaluation's, else the one after its stage."""
    suite = view.suite
    found: dict[str, Measurement] = {}
    for stage in view.stages:
        own = stage.measurements.get(suite.name) if suite else None
        if own is not None:
            found[stage.name] = own
    evaluation = view.evaluation
    return found | dict(evaluation.models if evaluation else {})


def _row(
    view: RunView, suite: SuiteView, measured: Mapping[str, Measurement], stage: StageView
) -> ModelRow:
    now = measured[stage.name]
    parent = parent_model(view, stage, measured)
    before = measured[parent] if parent else None
    gain = {task: now.tasks[task].value for task in suite.gain if task in now.tasks}
    changes, keep_change = {}, None
    if parent and before is not None:
        changes = {
            task: difference(now, before, [task], parent) for task in gain if task in before.tasks
        }
        if accuracy_tasks(now, suite.keep):
            keep_change = difference(now, before, suite.keep, parent)
    return ModelRow(
        stage,
        now,
        gain,
        mean_share(now, suite.keep),
        _tax(view, suite, measured, stage.name),
        changes,
        keep_change,
    )


def parent_model(
    view: RunView, stage: StageView, measured: Mapping[str, Measurement]
) -> str | None:
    """The measured model that a stage changed: up its first input; of an average `post`."""
    seen = {stage.name}
    current: StageView | None = stage
    while current is not None and current.needs:
        name = _trained_before(current)
        if name in measured:
            return name
        if name in seen:
            return None
        seen.add(name)
        current = view.stage(name)
    return None


def _trained_before(stage: StageView) -> str:
    """The stage whose model this one changed: of an average `post`, or the first of `models`."""
    if stage.kind != "average":
        return stage.needs[0]
    listed = stage.config.get("models") or (stage.needs[-1],)
    return str(stage.config.get("post") or listed[0])


def _tax(
    view: RunView, suite: SuiteView, measured: Mapping[str, Measurement], name: str
) -> Interval | None:
    since = suite.tax_since
    if since is None or since not in measured or since not in _ancestors(view, name):
        return None
    told = measured[name].points.get("tax")
    if told is not None:
        return told
    if not accuracy_tasks(measured[name], suite.keep):
        return None
    change = difference(measured[since], measured[name], suite.keep, since)
    return Interval(change.value, change.value - change.half, change.value + change.half)


def _ancestors(view: RunView, name: str) -> set[str]:
    found: set[str] = set()
    waiting = [name]
    while waiting:
        stage = view.stage(waiting.pop())
        new = set(stage.needs) - found if stage else set()
        found |= new
        waiting += new
    return found


def accuracy_tasks(measurement: Measurement, tasks: Sequence[str]) -> list[str]:
    """The tasks that count in points; perplexity is shown, never averaged in."""
    return [
        task
        for task in tasks
        if task in measurement.tasks and measurement.tasks[task].kind == "accuracy"
    ]


def mean_share(measurement: Measurement, tasks: Sequence[str]) -> Interval | None:
    """The mean over tasks, its interval joined from the tasks' own."""
    counted = [measurement.tasks[task].value for task in accuracy_tasks(measurement, tasks)]
    if not counted:
        return None
    value = fmean(interval.value for interval in counted)
    half = sum(half_width(interval) ** 2 for interval in counted) ** 0.5 / len(counted)
    return Interval(value, max(0.0, value - half), min(1.0, value + half))


def difference(now: Measurement, before: Measurement, tasks: Sequence[str], since: str) -> Change:
    """Mean over tasks of now minus before, with half of its 95 % interval."""
    names = [task for task in accuracy_tasks(now, tasks) if task in before.tasks]
    if not names:
        return Change(0.0, 0.0, since)
    value = fmean(now.tasks[task].value.value - before.tasks[task].value.value for task in names)
    variance = sum(_variance(now, before, task) for task in names) / len(names) ** 2
    return Change(value, NORMAL_95 * variance**0.5, since)


def _variance(now: Measurement, before: Measurement, task: str) -> float:
    """Of the difference of two means: from paired answers where the prompts were the same."""
    new, old = now.passed.get(task), before.passed.get(task)
    same = now.fingerprint == before.fingerprint
    if same and new and old and len(new) == len(old):
        gaps = [float(after) - float(earlier) for after, earlier in zip(new, old, strict=True)]
        middle = fmean(gaps)
        return fmean((gap - middle) ** 2 for gap in gaps) / len(gaps)
    halves = (half_width(now.tasks[task].value), half_width(before.tasks[task].value))
    return sum((half / NORMAL_95) ** 2 for half in halves)
