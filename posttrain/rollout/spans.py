"""When an engine worked and when it stood still, as few spans of the trace."""

from __future__ import annotations

import time
from collections.abc import Callable

SpanSink = Callable[[str, str, float, float], None]  # track, name, start and end in time.time()

SHORTEST_GAP_S = 0.05  # a shorter rest between two samples is not shown
LONGEST_SPAN_S = 10.0  # a longer one is told in pieces, so that a running trace shows it


class EngineSpans:
    """Turns "it has work", "it has none" and "it takes weights" into spans. Times in seconds."""

    def __init__(self, span: SpanSink, engine: str, clock: Callable[[], float] = time.time) -> None:
        self._span = span
        self._track = f"engine {engine}"
        self._clock = clock
        self._began: float | None = None
        self._rests_since: float | None = None

    def working(self, has_work: bool) -> None:
        """Whether the engine has samples to generate from now on."""
        now = self._clock()
        if self._rests_since is not None and now - self._rests_since >= SHORTEST_GAP_S:
            self._end(self._rests_since)
        if not has_work:
            if self._rests_since is None:
                self._rests_since = now
            return
        self._rests_since = None
        if self._began is None:
            self._began = now
        elif now - self._began >= LONGEST_SPAN_S:
            self._end(now)
            self._began = now

    def swapped(self, version: int, stall_s: float) -> None:
        """It has taken new weights just now, and made no step for `stall_s`."""
        now = self._clock()
        begin = now - stall_s
        was_working = self._began is not None and self._rests_since is None
        if self._began is not None:
            self._end(min(begin, self._rests_since or begin))
        self._span(self._track, f"swap v{version}", begin, now)
        if was_working:
            self._began = now

    def close(self) -> None:
        """Tell what is still open."""
        self._end(self._rests_since or self._clock())

    def _end(self, now: float) -> None:
        if self._began is not None and now > self._began:
            self._span(self._track, "generate", self._began, now)
        self._began = self._rests_since = None
