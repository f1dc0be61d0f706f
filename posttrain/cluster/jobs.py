"""The Ray Jobs API: hands a pipeline to a cluster's dashboard, and reads a job's log from there.

    here                     dashboard (head node)         job (a process on the head node)
    submit: archive, command ------------------> unpack -> job_files: into the run folder
                                                           posttrain run --address auto
    follow <------------------------ log, state <--------- narration, exit code

Every call has a deadline: Ray's client waits for a silent server for ever.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import re
import shlex
import socket
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from posttrain.cluster.environment import prepare_ray
from posttrain.errors import DeadlineExceeded, InputError, PosttrainError, Problem, StageFailed

KNOCK_S = 5.0
ANSWER_S = 30.0
UPLOAD_S = 300.0  # of the whole archive
SILENCE_S = 15.0  # of a log, after which the job is asked how it is
SAVING_S = 120  # a job that is told to stop may take so long to save; Ray's own limit is 3
PORT = 8265
STOPPED_EXIT = 130
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")  # in an id, which stands in addresses


def dashboard_url(address: str) -> str:
    """`http://HOST:PORT` of what was written. Raises InputError for another kind of address."""
    parts = urlsplit(address if "://" in address else f"http://{address}")
    try:
        port = parts.port or (443 if parts.scheme == "https" else PORT)
    except ValueError:
        port = 0
    if parts.scheme not in ("http", "https") or not parts.hostname or not port:
        raise InputError(
            Problem(
                "no-cluster",
                f"`{address}` is no address of a Ray dashboard",
                path="--address",
                help=f"http://HOST:{PORT}; `ray start --head` prints it",
            )
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port}{parts.path.rstrip('/')}"


def job_command(
    file_name: str, folder: Path, runs_dir: Path, name: str, wait_for_cluster: str | None = None
) -> str:
    """The shell command of a job. `folder`, inside the run folder, takes its files.

    `exec`: the shell must not stand between the run and the signal that tells it to save.
    """
    bring = ["python", "-m", "posttrain.cluster.job_files", str(folder)]
    run = ["python", "-m", "posttrain.cli", "run", str(folder / file_name), "--address", "auto"]
    run += ["--runs-dir", str(runs_dir), "--name", name]
    run += ["--wait-for-cluster", wait_for_cluster] if wait_for_cluster else []
    return f"{shlex.join(bring)} && exec {shlex.join(run)}"


def exit_code(state: str, of_run: int | None) -> int:
    """What following a job ends with: the run's own exit code where it had one."""
    if state == "SUCCEEDED":
        return 0
    if state == "STOPPED":
        return STOPPED_EXIT
    return of_run if of_run else 1


class Jobs:
    """The jobs of one cluster. `client` stands in for Ray's in tests.

    Raises InputError `no-cluster` where nobody answers.
    """

    def __init__(self, address: str, client: Any = None) -> None:
        self.url = dashboard_url(address)
        self._client = client if client is not None else self._connect()

    def _connect(self) -> Any:
        prepare_ray(self.url)  # before the first import of ray
        parts = urlsplit(self.url)
        try:
            socket.create_connection((parts.hostname or "", parts.port or PORT), KNOCK_S).close()
        except OSError as error:
            raise InputError(self._nobody(f"no Ray dashboard answers at {self.url}")) from error
        from ray.job_submission import JobSubmissionClient

        for narrator in ("modules.job.sdk", "modules.dashboard_sdk"):  # set levels of their own
            logging.getLogger(f"ray.dashboard.{narrator}").setLevel(logging.ERROR)
        try:
            return self._within(ANSWER_S, "to say its version", JobSubmissionClient, self.url)
        except StageFailed as error:
            raise InputError(self._nobody(error.message)) from error

    def _nobody(self, message: str) -> Problem:
        return Problem(
            "no-cluster",
            message,
            path="--address",
            help="`ray start --head` prints the dashboard's address; on Kubernetes forward the "
            f"head service's port: kubectl port-forward service/NAME-head-svc {PORT}",
        )

    def submit(self, command: str, archive: Path, name: str, environment: Mapping[str, str]) -> str:
        """Hand over the archive and a command to run where it is unpacked; the submission id.

        `environment` is seen by all processes of the job. Raises DeadlineExceeded, StageFailed.
        """
        wanted = {"RAY_JOB_STOP_WAIT_TIME_S": str(SAVING_S), **environment}
        return str(
            self._within(
                UPLOAD_S,
                "to take the job",
                self._client.submit_job,
                entrypoint=command,
                submission_id=f"{_UNSAFE.sub('-', name)}-{uuid.uuid4().hex[:6]}",
                runtime_env={"working_dir": str(archive), "env_vars": wanted},
            )
        )

    def follow(self, job: str, write: Callable[[str], Any]) -> int:
        """Pass the job's log on until it ends; returns its exit code. Ctrl-C ends this alone.

        Raises InputError `unknown-job`, DeadlineExceeded where the dashboard falls silent.
        """
        self._state(job)  # one that is unknown is told before its log is asked for
        asyncio.run(self._tail(job, write))
        info = self._state(job)
        state = str(info.status.value)
        if state == "FAILED" and info.driver_exit_code is None:  # its log is empty
            raise StageFailed(f"job {job} did not run: {info.message}")
        return exit_code(state, info.driver_exit_code)

    async def _tail(self, job: str, write: Callable[[str], Any]) -> None:
        """The log's pieces, however long it is silent: then the dashboard has to answer."""
        pieces = self._client.tail_job_logs(job)
        waiting: asyncio.Task[str | None] | None = None
        while True:
            waiting = waiting or asyncio.ensure_future(anext(pieces, None))
            done, _ = await asyncio.wait({waiting}, timeout=SILENCE_S)
            if not done:
                info = await asyncio.to_thread(self._state, job)
                if info.status.is_terminal():
                    waiting.cancel()
                    return
                continue
            try:
                piece, waiting = waiting.result(), None
            except Exception as error:  # boundary: the connection broke, in the library's words
                raise StageFailed(
                    f"the log of {job} broke off: {_first_line(error)}",
                    help="the job may well go on: follow it again",
                ) from error
            if piece is None:
                return
            write(piece)

    def _state(self, job: str) -> Any:
        try:
            return self._within(
                ANSWER_S, f"to say how job {job} is", self._client.get_job_info, job
            )
        except StageFailed as error:
            if "404" not in error.message:
                raise
            raise InputError(
                Problem(
                    "unknown-job",
                    f"{self.url} knows no job `{job}`",
                    path="--follow",
                    help=f"ray job list --address {self.url}",
                )
            ) from error

    def _within(
        self, deadline_s: float, what: str, call: Callable[..., Any], *args: Any, **options: Any
    ) -> Any:
        """The call's answer. Its thread is left behind where it does not come."""
        answers: queue.Queue[tuple[Any, Exception | None]] = queue.Queue()

        def ask() -> None:
            try:
                answers.put((call(*args, **options), None))
            except Exception as error:  # boundary: whatever Ray or its HTTP library raises
                answers.put((None, error))

        threading.Thread(target=ask, name=f"Ray dashboard {what}", daemon=True).start()
        try:
            answer, error = answers.get(timeout=deadline_s)
        except queue.Empty:
            raise DeadlineExceeded(
                f"posttrain waited {deadline_s:.0f} s for the Ray dashboard at {self.url} {what}",
                help="`ray status` on the head node says whether the cluster is well",
            ) from None
        if isinstance(error, PosttrainError):
            raise error
        if error is not None:
            raise StageFailed(
                f"the Ray dashboard at {self.url}, asked {what}: {_first_line(error)}"
            ) from error
        return answer


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
