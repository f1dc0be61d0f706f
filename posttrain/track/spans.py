"""Spans of the trace: who did what, from when to when; and how they travel to the tracker.

A span is tiny and there may be thousands a second, so a process gathers half a second's worth and
sends one message.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

SEND_EVERY_S = 0.5
MAX_WAITING_SPANS = (
    20_000  # more in half a second is a fault of the caller: the newest are left out
)

_NOT_BUSY = ("wait", "idle", "start", "swap", "pause")  # first words of names: nothing is computed


class Span(NamedTuple):
    """One bar of the picture.

    Example: Span("engine 0", "generate", 1763630010.0, 1763630011.0, {"running": 41})
    """

    track: str  # the row: "engine 0", "trainer 1", "coordinator", "rewards"
    name: str  # "generate", "swap v12", "wait for batch 13", "step 13", "publish v14", "save"
    start_s: float  # of time.time()
    end_s: float
    details: Mapping[str, Any]

    @property
    def is_busy(self) -> bool:
        """False for spans that say that nothing is computed: waiting, starting, swapping."""
        return not self.name.startswith(_NOT_BUSY)


class SpanBuffer:
    """Gathers spans and hands them over in one piece, at most every half second.

    Safe to use from several threads. Pickled, it arrives empty: what it holds is sent from here.
    """

    def __init__(self, every_s: float = SEND_EVERY_S) -> None:
        self.left_out = 0
        self._every_s = every_s
        self._lock = threading.Lock()
        self._waiting: list[Span] = []
        self._timer: threading.Timer | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._every_s,)

    def add(self, span: Span, send: Callable[[list[Span]], None]) -> None:
        """Keep a span; `send` gets it, with its neighbours, in a thread of the buffer's own."""
        with self._lock:
            if len(self._waiting) >= MAX_WAITING_SPANS:
                self.left_out += 1
                return
            self._waiting.append(span)
            if self._timer is None:
                self._timer = threading.Timer(self._every_s, self.flush, (send,))
                self._timer.daemon = True
                self._timer.start()

    def flush(self, send: Callable[[list[Span]], None]) -> None:
        """Hand over what waits, now."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        if waiting:
            send(waiting)
