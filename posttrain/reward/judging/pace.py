"""A token bucket: so many requests a minute, evenly spread, a second's worth at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Pace:
    """Says how long the next request has to wait.

    Example: 120 a minute: two go at once, then one every half second.
    """

    def __init__(
        self, per_minute: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._interval_s = 60.0 / per_minute if per_minute else 0.0
        self._bucket_s = max(self._interval_s, 1.0)  # how much unused time may be saved up
        self._clock = clock
        self._paid_until = float("-inf")
        self._lock = threading.Lock()

    def reserve(self) -> float:
        """Take the next free place; the seconds until it comes."""
        if not self._interval_s:
            return 0.0
        with self._lock:
            now = self._clock()
            self._paid_until = max(self._paid_until, now - self._bucket_s) + self._interval_s
            return max(0.0, self._paid_until - now)
