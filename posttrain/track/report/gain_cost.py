"""What each stage gained and cost: the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from posttrain.track.formatting import (
    duration,
    percent,
    percent_interval,
    significant,
    task_label,
)
from posttrain.track.gains import Change, ModelRow, gain_table
from posttrain.track.summary import recommended_model, tax_text
from posttrain.track.views import RunView


@dataclass(frozen=True, slots=True)
class Cell:
    """A value with its change: the mark says what the colour says."""

    value: str
    change: str = ""  # ▲ 29, ▼ 6, noise
    tone: str = ""  # better, worse, noise


@dataclass(frozen=True, slots=True)
class CostRow:
    name: str
    cells: Sequence[Cell]
    tax: str
    time: str
    recommended: bool


@dataclass(frozen=True, slots=True)
class CostTable:
    """Rows are models, columns the suite's tasks."""

    gain_columns: Sequence[str]
    keep_columns: Sequence[str]
    rows: Sequence[CostRow]
    with_tax: bool
    tax_since: str
    prompts: str  # how many prompts stand behind a number
    details: Sequence[tuple[str, str, str]] = ()  # model, task, further shares of its answers


def cost_table(view: RunView) -> CostTable | None:
    """None where nothing has been measured yet."""
    rows, suite = gain_table(view), view.suite
    if not rows or suite is None:
        return None
    gain = [task for task in suite.gain if any(task in row.measured.tasks for row in rows)]
    keep = [task for task in suite.keep if any(task in row.measured.tasks for row in rows)]
    taken = recommended_model(view)
    prompts = {r.prompts for row in rows for r in row.measured.tasks.values() if r.prompts}
    return CostTable(
        gain_columns=[task_label(task) for task in gain],
        keep_columns=[*(task_label(task) for task in keep), *(["mean kept"] if keep else [])],
        rows=[_row(row, gain, keep, taken) for row in rows],
        with_tax=any(row.tax is not None for row in rows),
        tax_since=suite.tax_since or "",
        prompts=" or ".join(str(count) for count in sorted(prompts)),
        details=[
            (row.stage.name, task_label(task), _shares(row.measured.tasks[task].details))
            for task in (*gain, *keep)
            for row in rows
            if task in row.measured.tasks and row.measured.tasks[task].details
        ],
    )


def _shares(details: Mapping[str, float]) -> str:
    return "; ".join(f"{name} {percent(share)}" for name, share in details.items())


def _row(row: ModelRow, gain: Sequence[str], keep: Sequence[str], taken: str | None) -> CostRow:
    cells = [_cell(row, task, row.gain_changes.get(task)) for task in gain]
    cells += [_cell(row, task, None) for task in keep]
    if keep:
        change = row.keep_change
        shown = percent_interval(row.keep) if row.keep else "-"
        cells.append(Cell(shown, *_change(change)))
    return CostRow(
        row.stage.name,
        cells,
        tax_text(row.tax),
        "kept" if row.stage.kept else duration(row.stage.seconds),
        row.stage.name == taken,
    )


def _cell(row: ModelRow, task: str, change: Change | None) -> Cell:
    result = row.measured.tasks.get(task)
    if result is None:
        return Cell("-")
    if result.kind == "perplexity":
        return Cell(f"{significant(result.value.value, 3)} ppl")
    return Cell(percent_interval(result.value), *_change(change))


def _change(change: Change | None) -> tuple[str, str]:
    if change is None:
        return "", ""
    if change.is_noise:
        return "noise", "noise"
    size = abs(change.value) * 100
    points = f"{size:.0f}" if size >= 0.95 else f"{size:.1f}"
    return (f"▲ {points}", "better") if change.value > 0 else (f"▼ {points}", "worse")
