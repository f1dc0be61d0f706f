"""The fronts of average stages with several shares, for the picture of gain against tax."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.ops.fronts import hypervolume
from posttrain.track.formatting import half_width
from posttrain.track.report.figure import plot_text, rounded
from posttrain.track.run_parts import interval_of, read_json
from posttrain.track.views import RunView

FRONT = "front.json"


@dataclass(frozen=True, slots=True)
class FrontPoint:
    """One averaged model; shares 0..1, halves of their 95 % intervals."""

    stage: str
    method: str
    weight_pre: float
    gain: float
    gain_half: float
    tax: float
    tax_half: float
    chosen: bool

    @property
    def name(self) -> str:
        return f"{self.stage}: {self.method} {self.weight_pre:g}"


def front_points(view: RunView) -> list[FrontPoint]:
    """Of all average stages, line after line."""
    return [
        point
        for stage in view.stages
        if stage.kind == "average"
        for entry in read_json(stage.directory / FRONT).get("points") or ()
        if (point := _point(stage.name, entry)) is not None
    ]


def front_traces(
    points: list[FrontPoint], dominated: Mapping[str, bool]
) -> Iterator[dict[str, Any]]:
    """A line of markers for each method of each stage; hollow where another model is better."""
    lines = dict.fromkeys((point.stage, point.method) for point in points)
    for color, line in enumerate(lines, start=1):
        own = [point for point in points if (point.stage, point.method) == line]
        yield {
            "type": "scatter",
            "mode": "lines+markers+text",
            "name": plot_text(" ".join(line)),
            "x": [rounded(point.tax * 100) for point in own],
            "y": [rounded(point.gain * 100) for point in own],
            "text": [f"{point.weight_pre:g}" for point in own],
            "textposition": "bottom right",
            "symbols": ["diamond-open" if dominated[p.name] else "diamond" for p in own],
            "line": {"dash": "solid" if color == 1 else "dot", "width": 1},
            "color": color,
        }


def front_areas(points: Sequence[FrontPoint]) -> dict[str, float]:
    """The hypervolume of each line, by its name, in shares squared: `average layerwise`."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for point in points:
        lines.setdefault(f"{point.stage} {point.method}", []).append((point.gain, point.tax))
    return {name: hypervolume(line) for name, line in lines.items()}


def areas_in_words(areas: Mapping[str, float]) -> str:
    """What the picture's finding says of fronts; empty where there are none."""
    if not areas:
        return ""
    told = ", ".join(f"{name} {100 * area:.2f} %" for name, area in areas.items())
    return f"gain to be had, averaged over bounds on the tax of 0 to 100 points: {told}"


def _point(stage: str, entry: Mapping[str, Any]) -> FrontPoint | None:
    gain, tax = (interval_of(entry.get(key)) for key in ("gain", "tax"))
    if gain is None or tax is None:
        return None
    return FrontPoint(
        stage,
        str(entry.get("method", "")),
        float(entry.get("weight_pre", 0.0)),
        gain.value,
        half_width(gain),
        tax.value,
        half_width(tax),
        bool(entry.get("chosen")),
    )
