"""What a run shows while it runs: the live region, plain lines in a pipe, or JSON lines."""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console

from posttrain.track.graph_line import graph_lines
from posttrain.track.jsonl import JsonlFollower
from posttrain.track.live import LiveScreen
from posttrain.track.report.build import write_report
from posttrain.track.run_view import read_run
from posttrain.track.summary import end_of_run
from posttrain.track.views import RunView

EVENT_SCHEMA = 1
PAGE_EVERY_S = 10.0
PAGE_SHARE = 0.05  # of a core, at most: a long run's page takes seconds


class Screen:
    """Narration goes to stderr, data (`--json`) to stdout."""

    def __init__(self, directory: Path, as_json: bool) -> None:
        self._directory = directory
        self._as_json = as_json
        self._console = Console(stderr=True)
        self._live = None if as_json else LiveScreen(directory, self._console)
        self._followers: dict[Path, JsonlFollower] = {}
        self._ended = threading.Event()
        self._pages = threading.Thread(target=self._write_pages, name="live-page", daemon=True)

    def __enter__(self) -> Screen:
        if self._as_json:
            self._follow()  # what an earlier run wrote is not news
        return self

    def start(self) -> None:
        """Say what will happen, then show it happening: the run folder knows what is to be done."""
        for line in introduction(read_run(self._directory), self._console.width):
            self.say(line)
        if self._live is not None:
            self._live.start()
        self._pages.start()

    def tick(self) -> None:
        """Called often by the thread that schedules."""
        if self._as_json:
            for event in self._follow():
                print(json.dumps({"schema": EVENT_SCHEMA, **event}), flush=True)

    def say(self, text: str) -> None:
        """A sentence that stays in the scrollback; a file gets it as one line."""
        in_one_line = not self._console.is_terminal
        self._console.print(text, markup=False, highlight=False, soft_wrap=in_one_line)

    def show_cursor(self) -> None:
        """For an end that gives the live region no time to."""
        self._console.show_cursor(True)

    def show_end(self) -> None:
        """The last lines: what was gained, what it cost, what to do next."""
        self.tick()
        self._ended.set()
        if self._live is not None:
            self._live.stop()
            print(end_of_run(read_run(self._directory)), file=sys.stderr, flush=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self._pages.is_alive():
            self._pages.join(timeout=5.0)
        if self._live is not None:
            self._live.stop()

    def _write_pages(self) -> None:
        """live.html: the report of a run that goes on, for whoever would rather look than read."""
        pause_s = PAGE_EVERY_S
        while not self._ended.wait(pause_s):
            begun = time.monotonic()
            try:
                write_report(self._directory, self._directory / "live.html", live=True)
                gc.collect()  # a page leaves the run's rows in cycles, which are collected rarely
                pause_s = max(PAGE_EVERY_S, (time.monotonic() - begun) / PAGE_SHARE)
            except Exception as error:  # a page that fails must not stop the training it shows
                self.say(f"live.html could not be written: {error!r}")
                return

    def _follow(self) -> list[dict[str, Any]]:
        files = [self._directory / "events.jsonl", *self._directory.glob("*/*/events.jsonl")]
        events: list[dict[str, Any]] = []
        for file in files:
            follower = self._followers.setdefault(file, JsonlFollower(file))
            events += follower.read_new()
        return sorted(events, key=lambda event: event.get("time", 0.0))


def introduction(view: RunView, width: int) -> list[str]:
    """What will be done, where it is written, and that it may be stopped."""
    todo = [stage for stage in view.stages if stage.why != "kept"]
    kept = len(view.stages) - len(todo)
    counted = f"{len(todo)} stage{'' if len(todo) == 1 else 's'} to do, {kept} kept"
    graph = graph_lines({stage.name: stage.needs for stage in view.stages}, width=width - 2)
    why = [f"  {s.name}: {s.why}" for s in todo if s.why != "new" and not s.why.startswith("up")]
    inside = view.directory.resolve().is_relative_to(Path.cwd())
    folder = os.path.relpath(view.directory) if inside else str(view.directory.resolve())
    return [
        f"{view.name}: {counted}; W&B {view.wandb}",
        *(f"  {line}" for line in graph),
        *why,
        f"  writes {folder} · curves: {folder}/live.html · Ctrl-C is safe",
    ]
