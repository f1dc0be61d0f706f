"""The live view of a run: a region under ordinary lines, drawn from the run folder alone.

A thread reads the folder four times a second. On a terminal it redraws the region and prints one
line above it for each stage that ends (those stay in the scrollback); into a pipe, or where TERM is
`dumb`, it prints one line per fact with a heartbeat.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from posttrain.track.formatting import bar, duration, percent
from posttrain.track.graph_line import graph_lines
from posttrain.track.live_region import (
    Line,
    note_lines,
    region_lines,
    sample_lines,
    title,
)
from posttrain.track.mishaps import mishap_words
from posttrain.track.plain import plain_lines
from posttrain.track.run_view import RunReader
from posttrain.track.summary import MARKS, finished_line, stage_facts
from posttrain.track.views import RunView, StageView

__all__ = ["LiveScreen", "plain_lines", "render_live"]

WIDE = 120
LEFT_WIDTH = 44
REFRESH_S = 0.25
HEARTBEAT_S = 30.0
STYLES = {
    "done": "green",
    "failed": "red",
    "stopped": "yellow",
    "running": "bold",
    "waiting": "dim",
}


def render_live(
    view: RunView, width: int = 80, height: int = 24, *, finished: bool = True
) -> RenderableType:
    """The run as it is, at most `height` lines of at most `width` columns.

    With `finished`, graph and stages that ended are part of the picture; the live screen leaves
    them out where they already stand above it.
    """
    if width >= WIDE:
        return _wide(view, width, height)
    return Group(*_fit(_narrow(view, width, finished), height))


# --- narrow --------------------------------------------------------------------------------------


def _narrow(view: RunView, width: int, finished: bool) -> list[Line]:
    lines: list[Line] = []
    if finished:
        lines += _head(view, width)
        lines += [
            Line(_stage_line(stage, view), 30 + index)
            for index, stage in enumerate(view.stages)
            if stage.state not in ("waiting", "running")
        ]
    running = sorted(view.running, key=lambda stage: stage.kind == "online_rl", reverse=True)
    for index, stage in enumerate(running):
        lines.append(Line(_rule(width), 20))
        lines.append(Line(title(stage, view.seconds if index == 0 else None, width), 100 - index))
        if index == 0:
            lines += _focus(stage, width)
        else:
            lines += region_lines(stage, width)[:2]
    if not running and view.state == "running":
        lines.append(Line(Text(" starting the next stage", style="dim"), 95))
    lines += _footer(view, width)
    return lines


def _focus(stage: StageView, width: int) -> list[Line]:
    lines = [Line(_rule(width), 15), *region_lines(stage, width)]
    said = [*note_lines(stage, width), *sample_lines(stage, width, 2)]
    return [*lines, *([Line(_rule(width), 16)] if said else []), *said]


def _head(view: RunView, width: int) -> list[Line]:
    first = Text(f" {view.name}", style="bold", no_wrap=True, overflow="ellipsis")
    state = "" if view.state == "running" else f"  {view.state}"
    first.append(f"{state}   {duration(view.seconds)}", "not bold")
    return [
        Line(first, 99),
        *(Line(Text(f" {line}", no_wrap=True), 60) for line in _graph(view, width - 2)),
    ]


def _graph(view: RunView, width: int) -> list[str]:
    labels = {stage.name: f"{MARKS[stage.state]} {stage.name}" for stage in view.stages}
    return graph_lines({stage.name: stage.needs for stage in view.stages}, labels, width)


def _stage_line(stage: StageView, view: RunView) -> Text:
    text = Text(finished_line(stage, view), no_wrap=True, overflow="ellipsis")
    text.stylize(STYLES[stage.state], 1, 2)
    return text


def _may_be_told(stage: StageView, view: RunView, is_last: bool) -> bool:
    """Whether a stage's line can stand: it has ended, and what its model can do is measured."""
    if stage.state != "done" or is_last or view.state != "running":
        return stage.state in ("done", "failed", "stopped")
    is_asked = view.suite is not None and stage.kind in (
        "sft",
        "preference",
        "online_rl",
        "average",
    )
    return bool(stage.measurements) or not is_asked


def _footer(view: RunView, width: int) -> list[Line]:
    coming = [stage.name for stage in view.stages if stage.state == "waiting"]
    left = f" next: {', '.join(coming)}" if coming else ""
    right = "Ctrl-C: pause safely " if view.state == "running" else ""
    if not left and not right:
        return []
    room = width - len(left) - len(right)
    text = f"{left}{' ' * room}{right}" if room > 1 else left
    return [
        Line(_rule(width), 14),
        Line(Text(text, style="dim", no_wrap=True, overflow="ellipsis"), 75),
    ]


def _rule(width: int) -> Text:
    return Text("─" * width, style="dim", no_wrap=True)


def _fit(lines: list[Line], height: int) -> list[Text]:
    """Leaves out the lightest lines until the rest fits."""
    surplus = len(lines) - height
    by_weight = sorted(range(len(lines)), key=lambda index: lines[index].weight)
    left_out = set(by_weight[:surplus]) if surplus > 0 else set()
    return [line.text for index, line in enumerate(lines) if index not in left_out]


# --- wide ----------------------------------------------------------------------------------------


def _wide(view: RunView, width: int, height: int) -> RenderableType:
    right_width = width - LEFT_WIDTH
    inside = right_width - 4
    running = sorted(view.running, key=lambda stage: stage.kind == "online_rl", reverse=True)
    lines: list[Line] = []
    for index, stage in enumerate(running):
        if index:
            lines += [Line(_rule(inside), 15), Line(title(stage, None, inside), 99 - index)]
        lines += region_lines(stage, inside)
        lines += note_lines(stage, inside) + sample_lines(stage, inside, 6 if not index else 2)
    if not lines:
        waiting = "starting the next stage" if view.state == "running" else view.state
        lines.append(Line(Text(waiting, style="dim"), 99))
    head = str(title(running[0], None, inside)).strip() if running else view.state
    grid = Table.grid(padding=0)
    grid.add_column(width=LEFT_WIDTH)
    grid.add_column(width=right_width)
    rows = max(3, height - 3)
    left, right = _fit(_wide_list(view), rows), _fit(lines, rows)
    tall = max(len(left), len(right)) + 2
    grid.add_row(
        Panel(
            Group(*left),
            title=Text(f"{view.name}  {duration(view.seconds)}"),
            title_align="left",
            height=tall,
        ),
        Panel(Group(*right), title=Text(head), title_align="left", height=tall),
    )
    return Group(grid, *(line.text for line in _footer(view, width)[1:]))


def _wide_list(view: RunView) -> list[Line]:
    """The graph as a list: every stage with its state and its last fact."""
    width = max((len(stage.name) for stage in view.stages), default=0)
    lines = []
    for index, stage in enumerate(view.stages):
        text = Text(no_wrap=True, overflow="ellipsis")
        text.append(f"{MARKS[stage.state]} ", STYLES[stage.state])
        text.append(f"{stage.name:<{width}}  ", "dim" if stage.state == "waiting" else "")
        if stage.state == "running" and stage.steps:
            share = (stage.step or 0) / stage.steps
            text.append(f"{duration(stage.seconds):>5}  {bar(share, 12):<12} {percent(share)}")
        elif stage.state != "waiting":
            took = "kept" if stage.kept else duration(stage.seconds)
            facts = stage_facts(stage, view)
            text.append(f"{took:>5}  {facts[-2] if len(facts) > 2 else ''.join(facts[-1:])}")
        lines.append(Line(text, 30 + index))
    return lines


# --- the thread ----------------------------------------------------------------------------------


class LiveScreen:
    """Shows a run until `stop()`; reads nothing but its folder.

    Example: screen = LiveScreen(Path("runs/quickstart")); screen.start(); ...; screen.stop()
    """

    def __init__(self, directory: Path | str, console: Console | None = None) -> None:
        self._reader = RunReader(directory)
        self._console = console or Console(stderr=True)
        self._plain = not self._console.is_terminal or self._console.is_dumb_terminal
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="live-screen", daemon=True)
        self._live: Live | None = None
        self._told: set[str] = set()
        self._seen_events: dict[str, int] = {}  # by stage; those of an earlier attempt are no news
        self._previous: RunView | None = None
        self._last_line = 0.0

    def start(self) -> None:
        """Draw at once, then keep drawing in a thread."""
        if not self._plain:
            self._live = Live(
                Text(" reading the run folder", style="dim"),
                console=self._console,
                auto_refresh=False,
                transient=True,
            )
            self._live.start()
        self._show()
        self._thread.start()

    def stop(self) -> None:
        """Print what ended since the last look and give the screen back."""
        if self._stop.is_set() or not self._thread.is_alive():
            return  # never started, or stopped before
        self._stop.set()
        self._thread.join(timeout=5.0)
        self._show()
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _work(self) -> None:
        while not self._stop.wait(REFRESH_S):
            self._show()

    def _show(self) -> None:
        view = self._reader.view()
        if self._plain or self._live is None:
            self._show_plain(view)
            return
        for stage in view.stages:
            if stage.name not in self._told and _may_be_told(stage, view, self._stop.is_set()):
                self._told.add(stage.name)
                self._console.print(_stage_line(stage, view))
        self._tell_mishaps(view)
        size = self._console.size
        picture = render_live(view, size.width, size.height - 1, finished=False)
        self._live.update(picture, refresh=True)

    def _tell_mishaps(self, view: RunView) -> None:
        """What died, and what takes its place: one line each, above the region."""
        for stage in view.stages:
            seen = self._seen_events.setdefault(stage.name, len(stage.events))
            self._seen_events[stage.name] = len(stage.events)
            for event in stage.events[seen:]:
                words = mishap_words(event)
                if words is not None:
                    self._console.print(Text(f" ! {stage.name}   {words}"))

    def _show_plain(self, view: RunView) -> None:
        now = time.monotonic()
        beat = now - self._last_line >= HEARTBEAT_S
        lines = plain_lines(self._previous, view, heartbeat=beat)
        self._previous = view
        for line in lines:
            self._console.print(Text(line), soft_wrap=True)
        if lines or beat:
            self._last_line = now
