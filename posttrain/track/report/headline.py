"""The first screen: one sentence that says which model to take, and what the run was."""

from __future__ import annotations

from dataclasses import dataclass

from posttrain.track.formatting import half_width, percent, task_label
from posttrain.track.gains import ModelRow, gain_table
from posttrain.track.summary import recommended_model
from posttrain.track.views import RunView


@dataclass(frozen=True, slots=True)
class Headline:
    """The answer, the reason, and how the run ended if not well."""

    answer: str
    reason: str
    problem: str
    model_path: str


def headline(view: RunView) -> Headline:
    """Never empty: an unfinished run says where it stands."""
    rows = gain_table(view)
    taken = recommended_model(view)
    row = next((row for row in rows if row.stage.name == taken), None)
    reason = view.evaluation.why if view.evaluation else ""
    best = view.directory / "best"
    model = f"runs/{view.directory.name}/best" if best.exists() else ""
    return Headline(_answer(view, row, rows), reason, _problem(view), model)


def _answer(view: RunView, row: ModelRow | None, rows: list[ModelRow]) -> str:
    if row is None:
        return _progress(view)
    parts = []
    for task, interval in row.gain.items():
        first = next((other.gain[task] for other in rows if _is_start(other, task, view)), None)
        start = f"{first.value * 100:.0f} → " if first is not None else ""
        parts.append(
            f"{task_label(task)} {start}{percent(interval.value)}"
            f" (± {max(1, round(half_width(interval) * 100))})"
        )
    if row.tax is not None:
        parts.append(f"tax {row.tax.value * 100:.1f} points (± {half_width(row.tax) * 100:.1f})")
    gates = _gates(view)
    return f"Take {row.stage.name}: {', '.join(parts)}.{gates}"


def _is_start(row: ModelRow, task: str, view: RunView) -> bool:
    since = view.suite.tax_since if view.suite else None
    return task in row.gain and (since is None or row.stage.name == since)


def _gates(view: RunView) -> str:
    found = [
        event
        for events in (view.events, *(stage.events for stage in view.stages))
        for event in events
        if event.get("name") == "gate"
    ]
    if not found:
        return ""
    failed = [event for event in found if event.get("verdict") in ("fail", "failed", False)]
    undecided = [event for event in found if event.get("verdict") == "undecided"]
    if failed:
        return f" {len(failed)} of {len(found)} gates failed."
    if undecided:
        return f" {len(undecided)} of {len(found)} gates undecided."
    return " All gates passed."


def _progress(view: RunView) -> str:
    done = sum(stage.state == "done" for stage in view.stages)
    text = f"{done} of {len(view.stages)} stages done"
    running = ", ".join(
        f"{stage.name} at step {stage.step} of {stage.steps}" if stage.steps else stage.name
        for stage in view.running
    )
    return f"{text}; running: {running}." if running else f"{text}."


def _problem(view: RunView) -> str:
    error = view.error or next((stage.error for stage in view.stages if stage.error), None)
    if not error:
        return ""
    cure = f" {error['help']}" if error.get("help") else ""
    place = error.get("place") or error.get("path") or ""
    return f"{error.get('code', 'failed')} {place}: {error.get('message', '')}.{cure}"
