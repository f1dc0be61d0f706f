"""One picture of the report: what plotly draws, what it shows in words, and the data behind it."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from posttrain.track.formatting import percent, significant

MAX_POINTS = 500
MAX_TABLE_ROWS = 12


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a curve. `xs` holds the same points by step, by hour and by token count."""

    name: str
    xs: Mapping[str, Sequence[float]]
    ys: Sequence[float]
    color: int = 0  # index into the page's palette
    dash: Literal["solid", "dash", "dot"] = "solid"
    second_axis: bool = False
    markers: bool = False

    def thinned(self) -> Series:
        """At most 500 points; first and last stay."""
        keep = thin_indices(len(self.ys), MAX_POINTS)
        return Series(
            self.name,
            {axis: [rounded(values[index]) for index in keep] for axis, values in self.xs.items()},
            [rounded(self.ys[index]) for index in keep],
            self.color,
            self.dash,
            self.second_axis,
            self.markers,
        )


@dataclass(frozen=True, slots=True)
class DataTable:
    """What stands behind a picture, for those who cannot or will not look at it."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture with its finding. `data` and `layout` are plotly's; colours are palette indices."""

    id: str
    title: str
    finding: str  # the aria-label: what a reader would see
    data: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]
    table: DataTable
    xs: Sequence[Mapping[str, Sequence[float]]] = field(default_factory=tuple)  # per trace
    height_px: int | None = None  # where the page's usual height does not fit

    def as_json(self) -> dict[str, Any]:
        return {"id": self.id, "data": self.data, "layout": self.layout, "xs": self.xs}


def curve_figure(
    id: str,
    title: str,
    series: Sequence[Series],
    *,
    y_title: str,
    finding: str,
    percent_axis: bool = False,
    second_title: str = "",
    second_percent: bool = False,
    marks: Sequence[tuple[float, str]] = (),
    x_title: str = "step",
) -> Figure:
    """Curves over steps; `marks` are (step, letter) of notes, drawn as vertical lines."""
    thin = [line.thinned() for line in series]
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": x_title}},
        "yaxis": {"title": {"text": y_title}} | ({"tickformat": ".0%"} if percent_axis else {}),
        "marks": [{"x": step, "text": letter} for step, letter in marks],
        "showlegend": len(thin) > 1,
    }
    if second_title:
        layout["yaxis2"] = {
            "title": {"text": second_title},
            "overlaying": "y",
            "side": "right",
            "showgrid": False,
            "exponentformat": "power",
            "tickmode": "auto",
            "nticks": 5,
        }
    if second_title and second_percent:
        highest = max((max(line.ys, default=0.0) for line in thin if line.second_axis), default=0.0)
        layout["yaxis2"] |= {"tickformat": ".0%", "range": [0, max(0.1, 1.1 * highest)]}
    return Figure(
        id=id,
        title=title,
        finding=finding,
        data=[_trace(line) for line in thin],
        layout=layout,
        table=_curve_table(series, x_title),
        xs=[dict(line.xs) for line in thin],
    )


def _trace(line: Series) -> dict[str, Any]:
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines+markers" if line.markers else "lines",
        "name": plot_text(line.name),
        "x": line.xs["step"],
        "y": line.ys,
        "color": line.color,
        "line": {"dash": line.dash, "width": 2},
    }
    if line.second_axis:
        trace["yaxis"] = "y2"
    return trace


def _curve_table(series: Sequence[Series], x_title: str) -> DataTable:
    """A column per line; a dozen steps of each, so that rarely measured lines are not left out."""
    steps = {step for line in series for step in line.xs["step"]}
    keep = sorted(
        {
            line.xs["step"][index]
            for line in series
            for index in thin_indices(len(line.xs["step"]), MAX_TABLE_ROWS)
        }
    )
    by_step = [dict(zip(line.xs["step"], line.ys, strict=True)) for line in series]
    rows = [
        [_x(step), *(significant(v[step], 4) if step in v else "" for v in by_step)]
        for step in keep
    ]
    remark = f"{len(keep)} of {len(steps)} points; all are in metrics.jsonl"
    return DataTable([x_title, *(line.name for line in series)], rows, remark)


def _x(value: float) -> str:
    """Steps as they are counted; anything else by its meaningful digits."""
    return f"{value:.0f}" if value == int(value) else significant(value, 4)


def change_in_words(name: str, values: Sequence[float], *, shares: bool = False) -> str:
    """`reward rises from 52 % to 76 %`: the finding of a curve."""
    if not values:
        return f"{name}: nothing recorded"
    show = percent if shares else _plain
    first, last = show(values[0]), show(values[-1])
    if first == last:
        return f"{name} stays at {last}"
    verb = "rises" if values[-1] > values[0] else "falls"
    return f"{name} {verb} from {first} to {last}"


def _plain(value: float) -> str:
    return f"{value:.3g}"


def thin_indices(count: int, most: int) -> list[int]:
    """Evenly spread indices, first and last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(index * (count - 1) / (most - 1)) for index in range(most)})


def rounded(value: float) -> float:
    """Five meaningful digits: more only make the file heavy."""
    return float(f"{value:.5g}")


def plot_text(text: str) -> str:
    """Text for plotly, which reads a few HTML tags in labels."""
    return html.escape(text, quote=False)
