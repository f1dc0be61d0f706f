"""The graph of stages as a drawing: boxes by depth, left to right, curves between them."""

from __future__ import annotations

from dataclasses import dataclass

from posttrain.track.formatting import duration
from posttrain.track.graph_line import columns_of
from posttrain.track.summary import MARKS, stage_facts
from posttrain.track.views import RunView, StageView

BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y, MARGIN = 152, 78, 30, 18, 6
LINE_LENGTH = 20  # characters that fit into a box


@dataclass(frozen=True, slots=True)
class Box:
    """One stage; x and y are its upper left corner in the drawing's units."""

    stage: StageView
    x: float
    y: float
    first_line: str  # ✓ sft
    second_line: str  # 0:44  new
    third_line: str  # what it did
    label: str  # for screen readers


@dataclass(frozen=True, slots=True)
class Drawing:
    """Boxes and the paths between them."""

    width: float
    height: float
    boxes: list[Box]
    paths: list[str]
    box_width: float = BOX_WIDTH
    box_height: float = BOX_HEIGHT


def graph_drawing(view: RunView) -> Drawing:
    """Every stage and every edge; what was kept and what is new is said in words."""
    columns = columns_of({stage.name: stage.needs for stage in view.stages})
    tallest = max((len(column) for column in columns), default=0)
    corner: dict[str, tuple[float, float]] = {}
    for index, column in enumerate(columns):
        offset = (tallest - len(column)) * (BOX_HEIGHT + GAP_Y) / 2
        for row, name in enumerate(column):
            corner[name] = (
                MARGIN + index * (BOX_WIDTH + GAP_X),
                MARGIN + 14 + offset + row * (BOX_HEIGHT + GAP_Y),
            )
    skipping = any(
        corner[stage.name][0] - corner[need][0] > BOX_WIDTH + GAP_X
        for stage in view.stages
        for need in stage.needs
        if need in corner
    )
    return Drawing(
        width=2 * MARGIN + len(columns) * (BOX_WIDTH + GAP_X) - GAP_X,
        height=2 * MARGIN + 14 + tallest * (BOX_HEIGHT + GAP_Y) - GAP_Y + (26 if skipping else 0),
        boxes=[_box(stage, view, *corner[stage.name]) for stage in view.stages],
        paths=[
            _path(corner[need], corner[stage.name])
            for stage in view.stages
            for need in stage.needs
            if need in corner
        ],
    )


def _box(stage: StageView, view: RunView, x: float, y: float) -> Box:
    time = duration(stage.seconds) if stage.state != "waiting" else ""
    why = stage.why.split(":", 1)[0]
    facts = stage_facts(stage, view)
    third = facts[-2] if len(facts) > 2 else "".join(facts[-1:])
    return Box(
        stage,
        x,
        y,
        f"{MARKS[stage.state]} {stage.name}",
        "   ".join(part for part in (time, why if stage.state == "done" else stage.state) if part),
        third if len(third) <= LINE_LENGTH else f"{third[: LINE_LENGTH - 1]}…",
        f"{stage.name}, {stage.kind}, {stage.state}, {time or 'no time'}, {'; '.join(facts)}",
    )


def _path(start: tuple[float, float], end: tuple[float, float]) -> str:
    """From the right edge of one box to the left edge of another; long ones pass below."""
    x1, y1 = start[0] + BOX_WIDTH, start[1] + BOX_HEIGHT / 2
    x2, y2 = end[0] - 3, end[1] + BOX_HEIGHT / 2
    if x2 - x1 <= GAP_X:
        middle = (x1 + x2) / 2
        return f"M{x1:.0f} {y1:.0f} C{middle:.0f} {y1:.0f} {middle:.0f} {y2:.0f} {x2:.0f} {y2:.0f}"
    bottom = max(start[1], end[1]) + BOX_HEIGHT + 12
    return (
        f"M{start[0] + BOX_WIDTH / 2:.0f} {start[1] + BOX_HEIGHT:.0f}"
        f" Q{start[0] + BOX_WIDTH / 2:.0f} {bottom:.0f} {start[0] + BOX_WIDTH / 2 + 20:.0f}"
        f" {bottom:.0f} L{end[0] + BOX_WIDTH / 2 - 20:.0f} {bottom:.0f}"
        f" Q{end[0] + BOX_WIDTH / 2:.0f} {bottom:.0f} {end[0] + BOX_WIDTH / 2:.0f}"
        f" {end[1] + BOX_HEIGHT + 3:.0f}"
    )
