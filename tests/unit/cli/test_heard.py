"""A reader that goes away must not take a run with it."""

import os
import sys

import pytest
from rich.console import Console

from posttrain.cli.heard import Heard, unheard_is_fine


@pytest.fixture
def pipe():
    """(the reading end, a text stream onto the other one)"""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        yield reading, stream


def test_what_is_written_arrives(pipe):
    reading, stream = pipe
    heard = Heard(stream)
    assert heard.write("loss 0.5\n") == 9
    heard.flush()
    assert os.read(reading, 100) == b"loss 0.5\n"
    os.close(reading)


def test_without_a_reader_nothing_fails(pipe):
    reading, stream = pipe
    os.close(reading)
    with pytest.raises(BrokenPipeError):
        os.write(stream.fileno(), b"x")
    heard = Heard(stream)
    for _ in range(2):
        assert heard.write("loss 0.5\n") == 9
        heard.flush()
    assert os.write(stream.fileno(), b"x") == 1  # also for those who write past it


def test_rich_prints_on_instead_of_ending_the_program(pipe, monkeypatch):
    reading, stream = pipe
    monkeypatch.setattr(sys, "stderr", stream)
    os.close(reading)
    with unheard_is_fine():
        console = Console(stderr=True)
        console.print("stopping")
        console.print("stopped")
    assert sys.stderr is stream


def test_a_terminal_that_is_gone():
    leader, follower = os.openpty()
    with os.fdopen(follower, "w") as stream:
        os.close(leader)
        with pytest.raises(OSError):
            os.write(follower, b"x")
        heard = Heard(stream)
        assert heard.write("x\n" * 5000) == 10_000
        heard.flush()
