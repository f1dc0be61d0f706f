"""Ctrl-C once: save and stop. Twice: stop now. What was finished is kept either way."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from posttrain.cli.screen import Screen
from posttrain.errors import Interrupted

if TYPE_CHECKING:
    from posttrain.cluster.session import ClusterSession
    from posttrain.pipeline.runner import Runner

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Context manager: signals set flags, and nothing is raised out of the blue. Where Ray is just
    starting, an exception from a signal's handler may end in a crash, or be swallowed.
    """

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._asked = 0
        self._before: dict[int, Any] = {}
        self._runner: Runner | None = None
        self.session: ClusterSession | None = None  # what a second signal takes down

    def __enter__(self) -> Interrupts:
        self._before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise Interrupted where a signal came before there was a runner to hand it to."""
        if self._asked:
            raise Interrupted("stopped before the first stage")

    def hand_to(self, runner: Runner) -> None:
        """From here on signals are for the runner. Raises Interrupted as `check` does."""
        self._runner = runner
        self.check()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._asked += 1
        if self._asked > 1:
            self._leave()
        if self._runner is None:
            self._screen.say("^C stopping as soon as Ray has started. Ctrl-C again: stop now")
            return
        self._runner.ask_to_stop()  # sets a flag: the scheduler's thread does the rest
        self._screen.say(
            "^C stopping: nothing new is started, what runs is saved. "
            "Ctrl-C again: stop now, nothing finished is lost"
        )

    def _leave(self) -> None:
        self._screen.say("^C^C stopped. Go on: posttrain resume")
        self._screen.show_cursor()
        if self.session is not None:
            self.session.abandon()
        os._exit(Interrupted.exit_code)  # threads that wait for dead processes would never return
