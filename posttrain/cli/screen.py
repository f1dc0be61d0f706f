"""What a run shows while it runs: the live region, plain lines in a pipe, or JSON lines."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console

from posttrain.track.jsonl import JsonlFollower
from posttrain.track.live import LiveScreen
from posttrain.track.run_view import read_run
from posttrain.track.summary import end_of_run

EVENT_SCHEMA = 1


class Screen:
    """Narration goes to stderr, data (`--json`) to stdout."""

    def __init__(self, directory: Path, as_json: bool) -> None:
        self._directory = directory
        self._as_json = as_json
        self._console = Console(stderr=True)
        self._live = None if as_json else LiveScreen(directory, self._console)
        self._followers: dict[Path, JsonlFollower] = {}

    def __enter__(self) -> Screen:
        if self._as_json:
            self._follow()  # what an earlier run wrote is not news
        return self

    def start(self) -> None:
        """Begin to show: the run folder says what is to be done."""
        if self._live is not None:
            self._live.start()

    def tick(self) -> None:
        """Called often by the thread that schedules."""
        if self._as_json:
            for event in self._follow():
                print(json.dumps({"schema": EVENT_SCHEMA, **event}), flush=True)

    def say(self, text: str) -> None:
        """A sentence that stays in the scrollback."""
        self._console.print(text, markup=False, highlight=False)

    def show_end(self) -> None:
        """The last lines: what was gained, what it cost, what to do next."""
        self.tick()
        if self._live is not None:
            self._live.stop()
            print(end_of_run(read_run(self._directory)), file=sys.stderr, flush=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def _follow(self) -> list[dict[str, Any]]:
        files = [self._directory / "events.jsonl", *self._directory.glob("*/*/events.jsonl")]
        events: list[dict[str, Any]] = []
        for file in files:
            follower = self._followers.setdefault(file, JsonlFollower(file))
            events += follower.read_new()
        return sorted(events, key=lambda event: event.get("time", 0.0))
