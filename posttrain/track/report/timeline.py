"""Timeline: who was busy when, how much at once, what waited in the queues, what a sync cost.

The bars come from the newest part of `trace.json`, the curves from the metrics of every step; a
stage without a trace has the curves alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Any

from posttrain.track.formatting import percent
from posttrain.track.overlap import Interval, merged
from posttrain.track.report.figure import (
    DataTable,
    Figure,
    Series,
    curve_figure,
    plot_text,
)
from posttrain.track.spans import Span
from posttrain.track.trace import FILE_NAME, trace_files
from posttrain.track.trace_read import READ_BYTES, read_spans
from posttrain.track.views import RunView, StageView

RESOLUTION = 800  # bars closer than one part in so many of the width become one
MAX_BARS = 12_000  # of one sort, over all rows: more only make the page heavy
MAX_TRACKS = 24  # more rows cannot be read on a page; the file has them all
KINDS = (  # (kind, first words of the spans' names, colour of the page, pattern beside the colour)
    ("generate", ("generate", "prefill"), 0, ""),
    ("train", ("step", "train", "forward", "log-probs"), 2, ""),
    ("score", ("score",), 4, ""),
    ("new weights", ("swap", "publish", "sync", "pause"), 1, "x"),
    ("save", ("save", "commit", "restore"), 3, "/"),
    ("wait", ("wait", "idle"), 5, "."),
    ("other", (), 3, "-"),
)


@dataclass(frozen=True, slots=True)
class StageTimeline:
    """One stage's pictures and where its whole trace lies."""

    stage: StageView
    bars: Figure | None
    curves: Sequence[Figure]
    files: Sequence[str]  # relative to the run folder


def stage_timelines(view: RunView, trace_bytes: int = READ_BYTES) -> list[StageTimeline]:
    """Of every stage that has something to show; of its trace the last `trace_bytes`."""
    online = [stage for stage in view.stages if stage.kind == "online_rl"]
    found = [_timeline(stage, view, trace_bytes) for stage in online]
    return [timeline for timeline in found if timeline.bars or timeline.curves]


def _timeline(stage: StageView, view: RunView, trace_bytes: int) -> StageTimeline:
    spans = read_spans(stage.directory, trace_bytes)
    files = [str(path.relative_to(view.directory)) for path in trace_files(stage.directory)]
    curves = [*_busy(stage), *_queues(stage), *_syncs(stage)]
    return StageTimeline(stage, _bars(stage, spans) if spans else None, curves, files)


# --- bars ----------------------------------------------------------------------------------------


def _bars(stage: StageView, spans: Sequence[Span]) -> Figure:
    first, last = min(s.start_s for s in spans), max(s.end_s for s in spans)
    length = max(last - first, 1e-6)
    tracks = sorted({span.track for span in spans}, key=_order)
    shown = tracks[:MAX_TRACKS]
    began = stage.started or first
    data, table = [], []
    for kind, _, color, pattern in KINDS:
        by_track = {
            track: merged(
                [(s.start_s, s.end_s) for s in spans if s.track == track and kind_of(s) == kind],
                gap_s=length / min(RESOLUTION, MAX_BARS / len(shown)),
            )
            for track in shown
        }
        if any(by_track.values()):
            data.append(_trace(kind, by_track, color, pattern, began))
    for track in shown:
        own = [span for span in spans if span.track == track]
        table.append(_row(track, own, (first, last)))
    busiest = ", ".join(f"{row[0]} {row[1]}" for row in table[:6])
    hidden = len(tracks) - len(shown)
    remark = f"the last {length:.0f} s that {FILE_NAME} holds"
    return Figure(
        id=f"timeline-{stage.name}",
        title=f"{stage.name}: who was busy when",
        finding=f"busy in the {length:.0f} s shown: {busiest}",
        data=data,
        layout={
            "barmode": "overlay",
            "bargap": 0.25,
            "xaxis": {"title": {"text": "seconds since the stage began"}},
            "yaxis": {
                "autorange": "reversed",
                "type": "category",
                "categoryorder": "array",
                "categoryarray": [plot_text(track) for track in shown],
            },
            "dragmode": "zoom",
            "showlegend": True,
        },
        table=DataTable(
            ["row", "busy", *[kind for kind, *_ in KINDS]],
            table,
            remark + (f"; {hidden} more rows are in it" if hidden else ""),
        ),
        height_px=110 + 26 * len(shown),
    )


def _trace(
    kind: str, by_track: dict[str, list[Interval]], color: int, pattern: str, began: float
) -> dict[str, Any]:
    bars = [(track, start, end) for track, union in by_track.items() for start, end in union]
    return {
        "type": "bar",
        "orientation": "h",
        "name": kind,
        "y": [plot_text(track) for track, _, _ in bars],
        "base": [round(start - began, 4) for _, start, _ in bars],
        "x": [round(end - start, 4) for _, start, end in bars],
        "color": color,
        "pattern": pattern,
        "hovertemplate": f"%{{y}}: {kind}, %{{x:.3g}} s<extra></extra>",
    }


def _row(track: str, spans: Sequence[Span], window: Interval) -> list[str]:
    length = max(window[1] - window[0], 1e-6)

    def share(chosen: list[Span]) -> float:
        union = merged((span.start_s, span.end_s) for span in chosen)
        return sum(end - start for start, end in union) / length

    shares = [share([span for span in spans if kind_of(span) == kind]) for kind, *_ in KINDS]
    busy = share([span for span in spans if span.is_busy])
    return [track, percent(busy), *(percent(value) if value else "" for value in shares)]


def kind_of(span: Span) -> str:
    """What a span's name says is done: `publish v14` is `new weights`."""
    return next((kind for kind, words, *_ in KINDS if span.name.startswith(words)), "other")


def _order(track: str) -> tuple[int, str, int]:
    sort, _, number = track.rpartition(" ")
    name = sort if number.isdigit() else track
    places = ("coordinator", "engine", "trainer", "rewards")
    place = places.index(name) if name in places else len(places)
    return place, name, int(number) if number.isdigit() else 0


# --- curves --------------------------------------------------------------------------------------


def _line(stage: StageView, metric: str, name: str, **style: Any) -> list[Series]:
    points = stage.series(metric)
    if not points:
        return []
    xs = {"step": [step for step, _ in points]}
    hours = [row["axis/time_s"] / 3600 for row in stage.rows if row.get(metric) is not None
             and row.get("axis/time_s") is not None]  # fmt: skip
    if len(hours) == len(points):
        xs["hours"] = hours
    return [Series(name, xs, [value for _, value in points], **style)]


def _busy(stage: StageView) -> list[Figure]:
    series = [
        *_line(stage, "engine/busy_share", "engines"),
        *_line(stage, "trainer/busy_share", "trainers", color=2, dash="dash"),
        *_line(stage, "overlap/both_busy_share", "both at once", color=1, dash="dot"),
    ]
    if not series:
        return []
    means = ", ".join(f"{line.name} {percent(fmean(line.ys))}" for line in series)
    return [_figure(stage, "busy", "Busy", series, "share of the time", f"busy: {means}", True)]


def _queues(stage: StageView) -> list[Figure]:
    series = [
        *_line(stage, "age/buffer_groups", "groups ready to be trained"),
        *_line(stage, "engine/running", "sequences running", color=2, dash="dash"),
        *_line(stage, "engine/waiting", "sequences waiting", color=1, dash="dot"),
    ]
    if not series:
        return []
    means = ", ".join(f"{fmean(line.ys):.0f} {line.name}" for line in series)
    return [_figure(stage, "queues", "Queues", series, "count", f"on average {means}", False)]


def _syncs(stage: StageView) -> list[Figure]:
    times, stalls = stage.values("weights/sync_ms"), stage.values("weights/stall_share")
    if not times:
        return []
    series = [
        *_line(stage, "weights/sync_ms", "sync", color=1),
        *_line(
            stage, "weights/stall_share", "generation stood still", color=2, dash="dot",
            second_axis=True,
        ),
    ]  # fmt: skip
    finding = f"a sync took {median(times):.0f} ms, at most {max(times):.0f} ms"
    if stalls:
        finding += f"; generation stood still {fmean(stalls) * 100:.2g} % of the time"
    second = "share of the time" if stalls else ""
    return [_figure(stage, "sync", "New weights", series, "ms", finding, False, second)]


def _figure(
    stage: StageView,
    key: str,
    title: str,
    series: Sequence[Series],
    y_title: str,
    finding: str,
    shares: bool,
    second_title: str = "",
) -> Figure:
    figure = curve_figure(
        f"timeline-{stage.name}-{key}",
        f"{stage.name}: {title.lower()}",
        series,
        y_title=y_title,
        finding=finding,
        percent_axis=shares,
        second_title=second_title,
        second_percent=bool(second_title),
    )
    from_zero = {**figure.layout, "yaxis": {**figure.layout["yaxis"], "rangemode": "tozero"}}
    return replace(figure, layout=from_zero)
