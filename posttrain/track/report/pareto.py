"""The picture of gain against tax: every model, and the fronts of averages with several shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.track.formatting import half_width
from posttrain.track.gains import ModelRow, gain_table
from posttrain.track.report.figure import DataTable, Figure, plot_text, rounded
from posttrain.track.report.fronts import areas_in_words, front_areas, front_points, front_traces
from posttrain.track.summary import recommended_model
from posttrain.track.views import RunView


@dataclass(frozen=True, slots=True)
class Point:
    """A model's place. Shares 0..1, halves of their 95 % intervals."""

    name: str
    gain: float
    gain_half: float
    tax: float
    tax_half: float


def pareto_figure(view: RunView) -> Figure | None:
    """Gain (up) against tax (left is better); None with fewer than two points."""
    suite = view.suite
    models = [
        _point(row)
        for row in gain_table(view)
        if row.gain and (row.tax is not None or (suite and row.stage.name == suite.tax_since))
    ]
    if len(models) < 2:
        return None
    front = front_points(view)
    averaged = [Point(p.name, p.gain, p.gain_half, p.tax, p.tax_half) for p in front]
    points = [*models, *averaged]
    below = {point.name: _is_dominated(point, points) for point in points}
    taken = recommended_model(view)
    names = [point.name for point in models]
    chosen = names.index(taken) if taken in names else None
    areas = areas_in_words(front_areas(front))
    return Figure(
        id="pareto",
        title="Gain against tax: up and left is better",
        finding="; ".join(filter(None, (_finding(models, chosen), areas))),
        data=[_models_trace(models, below, chosen), *front_traces(front, below)],
        layout={
            "xaxis": {"title": {"text": "tax (points)"}, "rangemode": "tozero"},
            "yaxis": {"title": {"text": "gain (%)"}},
            "limit": _tax_limit(view),
            "showlegend": bool(front),
        },
        table=DataTable(
            ["model", "gain (%)", "tax (points)", "dominated"],
            [
                [
                    point.name,
                    f"{point.gain * 100:.1f} ± {point.gain_half * 100:.1f}",
                    f"{point.tax * 100:.1f} ± {point.tax_half * 100:.1f}",
                    "yes" if below[point.name] else "no",
                ]
                for point in points
            ],
        ),
    )


def _finding(models: Sequence[Point], chosen: int | None) -> str:
    most = max(models, key=lambda point: point.gain)
    finding = f"{most.name} gains most, {most.gain * 100:.0f} %"
    if chosen is None:
        return finding
    taken = models[chosen]
    cost = f"{taken.gain * 100:.0f} % for {taken.tax * 100:.1f} points"
    return f"{finding}; {taken.name} is chosen: {cost}"


def _is_dominated(point: Point, points: Sequence[Point]) -> bool:
    """Whether another one gains as much for as little, and one of the two is better."""
    return any(
        other.gain >= point.gain
        and other.tax <= point.tax
        and (other.gain, other.tax) != (point.gain, point.tax)
        for other in points
    )


def _point(row: ModelRow) -> Point:
    """The mean over the gain tasks."""
    intervals = list(row.gain.values())
    gain = sum(interval.value for interval in intervals) / len(intervals)
    half = sum(half_width(interval) ** 2 for interval in intervals) ** 0.5 / len(intervals)
    cost = (row.tax.value, half_width(row.tax)) if row.tax else (0.0, 0.0)
    return Point(row.stage.name, gain, half, *cost)


def _models_trace(
    points: Sequence[Point], dominated: Mapping[str, bool], chosen: int | None
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers+text",
        "name": "models",
        "x": [rounded(point.tax * 100) for point in points],
        "y": [rounded(point.gain * 100) for point in points],
        "error_x": {"array": [rounded(point.tax_half * 100) for point in points]},
        "error_y": {"array": [rounded(point.gain_half * 100) for point in points]},
        "text": [
            plot_text(point.name) + (" (chosen)" if index == chosen else "")
            for index, point in enumerate(points)
        ],
        "textposition": "top right",
        "cliponaxis": False,
        "symbols": ["circle-open" if dominated[point.name] else "circle" for point in points],
        "ring": chosen,
        "color": 0,
    }


def _tax_limit(view: RunView) -> float | None:
    for stage in view.stages:
        rule = stage.config.get("recommend")
        if isinstance(rule, Mapping) and isinstance(rule.get("tax_at_most"), int | float):
            return float(rule["tax_at_most"])
    return None
