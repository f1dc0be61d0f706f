"""The pieces of a run folder's files as typed records; what is missing or malformed is left out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from posttrain.track.views import EvaluationView, Measurement, NoteView, SuiteView, TaskResult
from posttrain.types import Interval


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty where it is missing or half written."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def read_yaml(path: Path) -> dict[str, Any]:
    try:
        value = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, yaml.YAMLError):
        return {}
    return value if isinstance(value, dict) else {}


def number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def notes_of(events: Sequence[Mapping[str, Any]]) -> tuple[NoteView, ...]:
    notes: list[NoteView] = []
    for event in events:
        if event.get("name") == "note":
            notes.append(
                NoteView(
                    verdict=str(event.get("verdict", "watch")),
                    code=str(event.get("code", "")),
                    text=str(event.get("text", "")),
                    step=event.get("step"),
                    time=number(event.get("time")) or 0.0,
                )
            )
        elif event.get("name") == "note_over":
            notes = [_ended(note, event) for note in notes]
    return tuple(notes)


def _ended(note: NoteView, event: Mapping[str, Any]) -> NoteView:
    if note.over_step is not None or note.code != event.get("code"):
        return note
    over = event.get("step")
    return NoteView(
        note.verdict, note.code, note.text, note.step, note.time, -1 if over is None else over
    )


def suites_of(value: Any) -> tuple[SuiteView, ...]:
    if not isinstance(value, Mapping):
        return ()
    return tuple(
        SuiteView(
            str(name),
            tuple(suite.get("gain") or ()),
            tuple(suite.get("keep") or ()),
            suite.get("tax_since"),
        )
        for name, suite in value.items()
        if isinstance(suite, Mapping)
    )


def interval_of(value: Any) -> Interval | None:
    if not isinstance(value, Mapping) or not isinstance(value.get("value"), int | float):
        return None
    middle = float(value["value"])
    return Interval(middle, float(value.get("low", middle)), float(value.get("high", middle)))


def _intervals(value: Any) -> dict[str, Interval]:
    items = value.items() if isinstance(value, Mapping) else ()
    return {str(name): found for name, item in items if (found := interval_of(item)) is not None}


def _tasks(value: Any) -> dict[str, TaskResult]:
    items = value.items() if isinstance(value, Mapping) else ()
    return {
        str(task): TaskResult(
            found,
            str(item.get("kind", "accuracy")),
            item.get("prompts"),
            item.get("details") or {},
        )
        for task, item in items
        if (found := interval_of(item)) is not None
    }


def measurements_of(directory: Path) -> dict[str, Measurement]:
    found = {}
    for path in sorted(directory.glob("*.json")):
        value = read_json(path)
        if value:
            suite = str(value.get("suite", path.stem))
            found[suite] = _measurement(suite, value, _tasks(value.get("tasks")))
    return found


def _measurement(
    suite: str, value: Mapping[str, Any], tasks: Mapping[str, TaskResult]
) -> Measurement:
    return Measurement(
        suite=suite,
        tasks=tasks,
        points=_intervals(value.get("points")),
        passed=value.get("passed") or {},
        answers=value.get("answers") or {},
        fingerprint=str(value.get("fingerprint", "")),
        seconds=number(value.get("seconds")) or 0.0,
    )


def evaluation_of(value: Mapping[str, Any]) -> EvaluationView | None:
    models = value.get("models")
    if not isinstance(models, Mapping):
        return None
    suite, fingerprint = str(value.get("suite", "")), str(value.get("fingerprint", ""))
    points = {str(model): _intervals(item) for model, item in (value.get("points") or {}).items()}
    answers, passed = value.get("answers") or {}, value.get("passed") or {}
    return EvaluationView(
        models={
            str(model): Measurement(
                suite=suite,
                tasks=_tasks(tasks),
                points=points.get(str(model), {}),
                passed=passed.get(model) or {},
                answers=answers.get(model) or {},
                fingerprint=fingerprint,
            )
            for model, tasks in models.items()
        },
        recommended=value.get("recommended"),
        why=str(value.get("why") or ""),
        points=points,
    )
