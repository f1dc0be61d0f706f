"""What each stage gained and cost: the table, and the picture of gain against tax."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.track.formatting import (
    duration,
    half_width,
    percent,
    percent_interval,
    significant,
    task_label,
)
from posttrain.track.gains import Change, ModelRow, gain_table
from posttrain.track.report.figure import DataTable, Figure, plot_text, rounded
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


def pareto_figure(view: RunView) -> Figure | None:
    """Gain (up) against tax (left is better); None with fewer than two points."""
    suite = view.suite
    points = [
        (row, *_point(row))
        for row in gain_table(view)
        if row.gain and (row.tax is not None or (suite and row.stage.name == suite.tax_since))
    ]
    if len(points) < 2:
        return None
    taken = recommended_model(view)
    names = [row.stage.name for row, *_ in points]
    gains, taxes = [p[1] for p in points], [p[3] for p in points]
    dominated = [
        any(
            gains[j] >= gains[i]
            and taxes[j] <= taxes[i]
            and (gains[j], taxes[j]) != (gains[i], taxes[i])
            for j in range(len(points))
        )
        for i in range(len(points))
    ]
    limit = _tax_limit(view)
    finding = f"{names[gains.index(max(gains))]} gains most, {max(gains) * 100:.0f} %"
    if taken in names:
        at = names.index(taken)
        finding += f"; {taken} is chosen: {gains[at] * 100:.0f} % for {taxes[at] * 100:.1f} points"
    return Figure(
        id="pareto",
        title="Gain against tax: up and left is better",
        finding=finding,
        data=[_pareto_trace(points, dominated, names.index(taken) if taken in names else None)],
        layout={
            "xaxis": {"title": {"text": "tax (points)"}, "rangemode": "tozero"},
            "yaxis": {"title": {"text": "gain (%)"}},
            "limit": limit,
            "showlegend": False,
        },
        table=DataTable(
            ["model", "gain (%)", "tax (points)", "dominated"],
            [
                [
                    name,
                    f"{g * 100:.1f} ± {gh * 100:.1f}",
                    f"{t * 100:.1f} ± {th * 100:.1f}",
                    "yes" if below else "no",
                ]
                for name, (_, g, gh, t, th), below in zip(names, points, dominated, strict=True)
            ],
        ),
    )


def _point(row: ModelRow) -> tuple[float, float, float, float]:
    """(gain, half, tax, half): the mean over the gain tasks."""
    intervals = list(row.gain.values())
    gain = sum(interval.value for interval in intervals) / len(intervals)
    half = sum(half_width(interval) ** 2 for interval in intervals) ** 0.5 / len(intervals)
    return gain, half, row.tax.value if row.tax else 0.0, half_width(row.tax) if row.tax else 0.0


def _pareto_trace(
    points: Sequence[tuple[ModelRow, float, float, float, float]],
    dominated: Sequence[bool],
    chosen: int | None,
) -> dict[str, Any]:
    points_only = [point[1:] for point in points]
    return {
        "type": "scatter",
        "mode": "markers+text",
        "name": "models",
        "x": [rounded(tax * 100) for _, _, tax, _ in points_only],
        "y": [rounded(gain * 100) for gain, *_ in points_only],
        "error_x": {"array": [rounded(half * 100) for *_, half in points_only]},
        "error_y": {"array": [rounded(half * 100) for _, half, *_ in points_only]},
        "text": [
            plot_text(point[0].stage.name) + (" (chosen)" if index == chosen else "")
            for index, point in enumerate(points)
        ],
        "textposition": "top right",
        "cliponaxis": False,
        "symbols": ["circle-open" if below else "circle" for below in dominated],
        "ring": chosen,
        "color": 0,
    }


def _tax_limit(view: RunView) -> float | None:
    for stage in view.stages:
        rule = stage.config.get("recommend")
        if isinstance(rule, Mapping) and isinstance(rule.get("tax_at_most"), int | float):
            return float(rule["tax_at_most"])
    return None
