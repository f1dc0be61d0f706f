"""An asyncio loop whose time jumps to the next timer when nothing is ready: hours in milliseconds,
and the same order of events for the same seed.
"""

from __future__ import annotations

import asyncio
import selectors


class _JumpingSelector(selectors.SelectSelector):
    """No process and no thread is waited for, only the clock."""

    now = 0.0

    def select(self, timeout=None):
        if timeout is None:
            raise RuntimeError("everybody waits, and there is no timer that could wake anybody")
        self.now += timeout
        return []


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """`time()` begins at 0 and costs nothing."""

    def __init__(self):
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self):
        return self._jumping.now


def run_virtually(main, limit_s=3600):
    """What the coroutine returns; TimeoutError where it takes longer than that of its own time."""
    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        return runner.run(asyncio.wait_for(main, limit_s))
