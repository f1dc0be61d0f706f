"""Signals become flags: nothing is raised out of the blue, and the second one ends the process."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from posttrain.cli import interrupts
from posttrain.cli.interrupts import Interrupts
from posttrain.errors import Interrupted


class Told:
    """Stands in for the screen, the runner and the session."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.stops = self.abandoned = 0

    def say(self, text: str) -> None:
        self.lines.append(text)

    def show_cursor(self) -> None: ...

    def ask_to_stop(self) -> None:
        self.stops += 1

    def abandon(self) -> None:
        self.abandoned += 1


class Left(Exception):
    """In place of the end of the process."""


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Any:
    def leave(code: int) -> None:
        raise Left(code)

    monkeypatch.setattr(interrupts.os, "_exit", leave)
    return Told()


def raise_signal(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_before_the_runner_a_signal_waits_until_it_is_asked_for(told: Any, number: int) -> None:
    with Interrupts(told) as caught:
        caught.check()
        raise_signal(number)
        assert told.lines == ["^C stopping as soon as Ray has started. Ctrl-C again: stop now"]
        with pytest.raises(Interrupted, match="before the first stage"):
            caught.check()
        with pytest.raises(Interrupted):
            caught.hand_to(told)
    assert told.stops == 0


def test_then_it_is_for_the_runner_and_the_second_one_ends_the_process(told: Any) -> None:
    with Interrupts(told) as caught:
        caught.session = told
        caught.hand_to(told)
        raise_signal()
        assert (told.stops, told.abandoned) == (1, 0)
        with pytest.raises(Left, match="130"):
            raise_signal()
        assert (told.stops, told.abandoned) == (1, 1)
    assert told.lines[-1] == "^C^C stopped. Go on: posttrain resume"


def test_afterwards_signals_do_what_they_did_before(told: Any) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError), Interrupts(told):
        assert signal.getsignal(signal.SIGINT) != before
        raise ValueError
    assert signal.getsignal(signal.SIGINT) == before
