"""How much of the time two sides are busy at once: what an asynchronous run is for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from posttrain.track.spans import Span

Interval = tuple[float, float]  # start, end in seconds

LAG_S = 11.0
"""A stretch of generation is told in pieces of 10 s at most, half a second late. An engine that
said nothing for longer rests, or is gone."""

MAX_SPANS = 20_000  # kept per side; more would only be there if nobody asked for long


def merged(spans: Iterable[Interval], gap_s: float = 0.0) -> list[Interval]:
    """The union of intervals, in order; those at most `gap_s` apart become one.

    Example: merged([(3, 5), (0, 2), (1, 4)]) == [(0, 5)]
    """
    union: list[Interval] = []
    for start, end in sorted(spans):
        if union and start <= union[-1][1] + gap_s:
            union[-1] = (union[-1][0], max(union[-1][1], end))
        else:
            union.append((start, end))
    return union


def overlap(spans_a: Sequence[Interval], spans_b: Sequence[Interval], window: Interval) -> float:
    """Share of `window` (0..1) in which a span of both sides is under way.

    Spans may overlap one another and reach over the window's edges. An empty window has none.
    """
    first, last = window
    if last <= first:
        return 0.0
    side_a, side_b = merged(_clip(spans_a, window)), merged(_clip(spans_b, window))
    both = 0.0
    at_a = at_b = 0
    while at_a < len(side_a) and at_b < len(side_b):
        (start_a, end_a), (start_b, end_b) = side_a[at_a], side_b[at_b]
        both += max(0.0, min(end_a, end_b) - max(start_a, start_b))
        if end_a <= end_b:
            at_a += 1
        else:
            at_b += 1
    return both / (last - first)


def _clip(spans: Iterable[Interval], window: Interval) -> list[Interval]:
    first, last = window
    return [
        (max(start, first), min(end, last)) for start, end in spans if start < last and end > first
    ]


class OverlapWatch:
    """Remembers when any engine and any trainer was busy, until someone asks for the overlap.

    A span is told when it has ended, so the present is not known yet: the overlap is told up to
    where every engine and the trainer have told what they did.
    """

    def __init__(self) -> None:
        self._sides: dict[str, deque[Interval]] = {
            "engine": deque(maxlen=MAX_SPANS),
            "trainer": deque(maxlen=MAX_SPANS),
        }
        self._known_until: dict[str, dict[str, float]] = {"engine": {}, "trainer": {}}  # by track
        self._told_until: float | None = None

    def add(self, span: Span) -> None:
        sort = span.track.partition(" ")[0]
        if sort not in self._sides:
            return
        known = self._known_until[sort]
        known[span.track] = max(span.end_s, known.get(span.track, span.end_s))
        if span.is_busy:
            self._sides[sort].append((span.start_s, span.end_s))

    def share(self, now_s: float) -> float | None:
        """Since the last call; None where there is nothing to tell yet."""
        if not all(self._known_until.values()):
            return None
        until = self._until(now_s)
        since = self._told_until
        if since is None:  # the first call: since both sides have been there
            since = max(min((start for start, _ in s), default=until) for s in self._sides.values())
        if until <= since:
            return None
        engines, trainers = (list(side) for side in self._sides.values())
        value = overlap(engines, trainers, (since, until))
        self._told_until = until
        for name, side in self._sides.items():
            kept = (interval for interval in side if interval[1] > until)
            self._sides[name] = deque(kept, maxlen=MAX_SPANS)
        return value

    def _until(self, now_s: float) -> float:
        slowest_engine = min(self._known_until["engine"].values())
        trainer = max(self._known_until["trainer"].values())
        return min(trainer, max(slowest_engine, now_s - LAG_S))
