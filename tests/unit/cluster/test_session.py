"""A session gives the host's shared memory back at both of its ends; Ray itself is not started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from posttrain.cluster import session
from posttrain.config.pipeline import Cluster
from posttrain.errors import DeadlineExceeded
from posttrain.weight_sync.shared_directory import PARENT

OWNER = """
import sys
from posttrain.weight_sync.shared_directory import SharedDirectory
folder = SharedDirectory(sys.argv[1]).__enter__()
(folder.path / "0-1.weights").write_bytes(bytes(1000))
print(folder.path, flush=True)
sys.stdin.read()
"""

pytestmark = pytest.mark.skipif(not PARENT.is_dir(), reason=f"this host has no {PARENT}")


class Trainer:
    """A process that owns a folder in shared memory until it is killed."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER, f"session-test-{os.getpid()}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.folder = Path(self.process.stdout.readline().strip())

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def trainer():
    trainer = Trainer()
    yield trainer
    trainer.kill()


@pytest.fixture
def no_ray(monkeypatch):
    """What `ray.shutdown` does besides: a list of functions that the test fills."""
    effects = []
    monkeypatch.setattr(session.ray, "init", lambda **settings: None)
    monkeypatch.setattr(session.ray, "shutdown", lambda: [effect() for effect in effects])
    return effects


def test_a_start_removes_what_an_earlier_run_left(trainer, no_ray, tmp_path):
    with session.ClusterSession(Cluster(), None, tmp_path):
        assert trainer.folder.is_dir()  # of a run that still goes on beside us
    assert trainer.folder.is_dir()
    trainer.kill()
    assert trainer.folder.is_dir()
    with session.ClusterSession(Cluster(), None, tmp_path):
        assert not trainer.folder.exists()


def test_the_end_removes_what_its_own_trainer_left(trainer, no_ray, tmp_path):
    no_ray.append(trainer.kill)
    with session.ClusterSession(Cluster(), None, tmp_path):
        assert trainer.folder.is_dir()
    assert not trainer.folder.exists()


def slow_ray(monkeypatch, times):
    """Ray's processes come up too late so many times; returns those that were started."""
    started = []

    def init(**settings):
        started.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))
        logs = Path(settings["_temp_dir"]) / f"session_202{len(started)}" / "logs"
        logs.mkdir(parents=True)
        (logs / "raylet.out").write_text("slow")
        if len(started) <= times:
            raise Exception("The current node timed out during startup. This could happen because")

    monkeypatch.setattr(session.ray, "init", init)
    return started


def test_where_ray_comes_up_too_slowly_it_is_started_again(no_ray, monkeypatch, tmp_path):
    started = slow_ray(monkeypatch, 2)
    with session.ClusterSession(Cluster(), None, tmp_path):
        assert [process.poll() is None for process in started] == [False, False, True]
    started[-1].communicate()


def test_where_it_never_comes_up_that_is_said_and_its_logs_are_kept(no_ray, monkeypatch, tmp_path):
    started = slow_ray(monkeypatch, 3)
    with (
        pytest.raises(DeadlineExceeded, match=r"Ray to start on this machine, 3 times"),
        session.ClusterSession(Cluster(), None, tmp_path),
    ):
        pass
    assert len(started) == 3 and all(process.poll() is not None for process in started)
    assert (tmp_path / "ray" / "raylet.out").read_text() == "slow"


def test_other_trouble_at_the_start_is_no_matter_of_time(no_ray, monkeypatch, tmp_path):
    asked = []

    def init(**settings):
        asked.append(settings)
        raise Exception("no such port")

    monkeypatch.setattr(session.ray, "init", init)
    with (
        pytest.raises(Exception, match="no such port"),
        session.ClusterSession(Cluster(), None, tmp_path),
    ):
        pass
    assert len(asked) == 1


def test_an_interrupted_session_removes_it_too(trainer, no_ray, tmp_path):
    no_ray.append(trainer.kill)
    started = session.ClusterSession(Cluster(), None, tmp_path).__enter__()
    started.abandon()
    assert not trainer.folder.exists()


def test_what_ray_says_goes_into_a_file_and_not_onto_the_screen(tmp_path, capsys):
    from ray._private import worker

    printer = worker.print_to_stdstream  # the name is Ray's own: an upgrade may change it
    try:
        session.keep_off_the_screen(tmp_path / "logs" / "ray_messages.log")
        said = {"lines": ["A worker died.", "Memory is full."], "pid": "raylet", "is_err": False}
        worker.print_to_stdstream(said, ignore_prefix=False)
    finally:
        worker.print_to_stdstream = printer
    assert capsys.readouterr() == ("", "")
    lines = (tmp_path / "logs" / "ray_messages.log").read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == ["A worker died.", "Memory is full."]
