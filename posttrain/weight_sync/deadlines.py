"""Waits that end: one deadline over several waits, and calls that may hang for ever."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from time import monotonic
from typing import TypeVar

T = TypeVar("T")
WATCH_EVERY_S = 1.0


class Deadline:
    """A point in time that several waits share."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = monotonic() + seconds

    @property
    def left_s(self) -> float:
        return max(0.0, self._end - monotonic())


def within(
    deadline: Deadline,
    function: Callable[[], T],
    too_late: Callable[[], Exception],
    watch: Callable[[], None] = lambda: None,
) -> T:
    """Run a call that may hang for ever. Raises what it raises, or `too_late()` at the deadline;
    `watch`, called meanwhile, may raise before.

    The call is left behind in its thread then: a hanging collective cannot be ended from outside.
    """
    outcome: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(function())
        except BaseException as error:  # handed over to the thread that waits
            failure.append(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive() and deadline.left_s > 0:
        try:
            watch()
        except Exception:
            if thread.is_alive():
                raise
        thread.join(min(WATCH_EVERY_S, deadline.left_s))
    if failure:
        raise failure[0]
    if not outcome:
        raise too_late()
    return outcome[0]
