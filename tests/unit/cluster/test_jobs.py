"""Submitting and following through the Ray Jobs API, with a client that stands in for Ray's."""

from __future__ import annotations

import asyncio
import re
import shlex
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.job_submission import JobStatus

from posttrain.cluster import jobs
from posttrain.cluster.jobs import Jobs, dashboard_url, exit_code, job_command
from posttrain.errors import DeadlineExceeded, InputError, StageFailed

URL = "http://head:8265"


class Client:
    """Ray's JobSubmissionClient as far as it is used."""

    def __init__(self, log: tuple[Any, ...] = (), states: tuple[str, ...] = ("RUNNING",)) -> None:
        self.log, self.states = log, list(states)
        self.driver_exit_code: int | None = None
        self.submitted: dict[str, Any] = {}

    def submit_job(self, **job: Any) -> str:
        self.submitted = job
        return job["submission_id"]

    def get_job_info(self, job: str) -> Any:
        if job == "nobody":
            raise RuntimeError("Request failed with status code 404: Job nobody does not exist")
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return SimpleNamespace(
            status=JobStatus(state), driver_exit_code=self.driver_exit_code, message="no disk"
        )

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        for piece in self.log:
            if isinstance(piece, Exception):
                raise piece
            if isinstance(piece, float):
                await asyncio.sleep(piece)
            else:
                yield piece


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("http://head:8265", "http://head:8265"),
        ("http://head", "http://head:8265"),
        ("head", "http://head:8265"),
        ("head:80/", "http://head:80"),
        ("https://ray.example/team/", "https://ray.example:443/team"),
        ("http://[::1]:8265", "http://[::1]:8265"),
    ],
)
def test_addresses_of_dashboards(written: str, url: str) -> None:
    assert dashboard_url(written) == url


@pytest.mark.parametrize("written", ["ray://head:10001", "http://", "http://head:port"])
def test_other_addresses_are_refused(written: str) -> None:
    with pytest.raises(InputError, match="no address of a Ray dashboard") as caught:
        dashboard_url(written)
    assert caught.value.problems[0].code == "no-cluster"


def test_the_command_brings_the_files_and_becomes_the_run() -> None:
    command = job_command("my run.yaml", Path("/nfs/runs/a/submitted/0f"), Path("/nfs/runs"), "a")
    bring, run = command.split(" && exec ")
    assert shlex.split(bring) == [
        "python", "-m", "posttrain.cluster.job_files", "/nfs/runs/a/submitted/0f",
    ]  # fmt: skip
    assert shlex.split(run) == [
        "python", "-m", "posttrain.cli", "run", "/nfs/runs/a/submitted/0f/my run.yaml",
        "--address", "auto", "--runs-dir", "/nfs/runs", "--name", "a",
    ]  # fmt: skip
    waiting = job_command("a.yaml", Path("/nfs/a"), Path("/nfs"), "a", wait_for_cluster="30m")
    assert waiting == command_of("a.yaml") + " --wait-for-cluster 30m"


def command_of(file: str) -> str:
    return job_command(file, Path("/nfs/a"), Path("/nfs"), "a")


@pytest.mark.parametrize(
    ("state", "of_run", "code"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 3, 3),  # a gate said stop
        ("FAILED", None, 1),
        ("STOPPED", None, 130),
        ("RUNNING", None, 1),
    ],
)
def test_exit_codes(state: str, of_run: int | None, code: int) -> None:
    assert exit_code(state, of_run) == code


def test_a_job_gets_the_archive_and_just_the_variables_that_were_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    client = Client()
    job = Jobs(URL, client).submit("python -V", Path("/tmp/a.zip"), "my/run", {"JUDGE_KEY": "k"})
    assert re.fullmatch(r"my-run-[0-9a-f]{6}", job)
    assert client.submitted == {
        "entrypoint": "python -V",
        "submission_id": job,
        "runtime_env": {
            "working_dir": "/tmp/a.zip",
            "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "120", "JUDGE_KEY": "k"},
        },
    }


def test_following_passes_the_log_on_and_ends_as_the_run_did() -> None:
    client = Client(("checking rows\n", "gate: stop\n"), ("RUNNING", "FAILED"))
    client.driver_exit_code = 3
    shown: list[str] = []
    assert Jobs(URL, client).follow("mine-1", shown.append) == 3
    assert shown == ["checking rows\n", "gate: stop\n"]


def test_a_silent_log_is_waited_for_while_the_job_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "SILENCE_S", 0.02)
    client = Client(("a", 0.1, "b"), ("RUNNING",))
    shown: list[str] = []
    Jobs(URL, client).follow("mine-1", shown.append)
    assert shown == ["a", "b"]


def test_a_log_that_does_not_end_with_its_job_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "SILENCE_S", 0.02)
    client = Client(("a", 60.0, "b"), ("RUNNING", "RUNNING", "SUCCEEDED"))
    shown: list[str] = []
    assert Jobs(URL, client).follow("mine-1", shown.append) == 0
    assert shown == ["a"]


def test_a_dashboard_that_falls_silent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "ANSWER_S", 0.05)
    over = threading.Event()
    client = Client()
    client.get_job_info = lambda job: over.wait(10)  # type: ignore[method-assign]
    with pytest.raises(DeadlineExceeded) as caught:
        Jobs(URL, client).follow("mine-1", print)
    over.set()
    assert caught.value.message == (
        "posttrain waited 0 s for the Ray dashboard at http://head:8265 to say how job mine-1 is"
    )


def test_a_broken_connection_is_no_end_of_the_job() -> None:
    client = Client(("a", RuntimeError("WebSocket closed\nmore")))
    with pytest.raises(StageFailed) as caught:
        Jobs(URL, client).follow("mine-1", lambda text: None)
    assert caught.value.message == "the log of mine-1 broke off: WebSocket closed"
    assert "follow it again" in caught.value.help


def test_a_job_that_could_not_start_says_why() -> None:
    with pytest.raises(StageFailed, match="job mine-1 did not run: no disk"):
        Jobs(URL, Client((), ("FAILED",))).follow("mine-1", lambda text: None)


def test_an_unknown_job_is_bad_input() -> None:
    with pytest.raises(InputError) as caught:
        Jobs(URL, Client()).follow("nobody", print)
    assert caught.value.problems[0].code == "unknown-job"
    assert caught.value.problems[0].message == "http://head:8265 knows no job `nobody`"


def test_nobody_at_the_address() -> None:
    with pytest.raises(InputError, match=r"no Ray dashboard answers at http://127\.0\.0\.1:1"):
        Jobs("http://127.0.0.1:1")
