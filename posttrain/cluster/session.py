"""A Ray session: joins a running cluster, or starts a local one and always takes it down."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from posttrain.cluster.environment import prepare_ray, train_settings
from posttrain.config.pipeline import Cluster
from posttrain.errors import DeadlineExceeded, InputError, Problem
from posttrain.weight_sync.shared_directory import SharedDirectory, remove_orphans

NAMESPACE_PREFIX = "posttrain"
CONNECT_TIMEOUT_S = 5.0
WORKERS_END_S = 5.0
STARTS = 3  # of Ray on this machine, where it comes up too slowly
TOO_LATE = "timed out during startup"  # Ray's words for that: the error is a plain Exception


class ClusterSession:
    """Context manager around `ray.init` and `ray.shutdown`.

    A local session declares one CPU slot per core and one more per engine: an engine that waits in
    the pool between two stages holds a slot, not a core.

    Both ends remove what dead trainers left in this host's shared memory: a trainer that is killed
    cannot remove its weights itself, and they would lie there until the host restarts. So they do
    with the folders of killed drivers, whose agents live a minute longer and may still write there
    while the first end removes them.
    """

    def __init__(self, cluster: Cluster, address: str | None, log_directory: Path) -> None:
        self._cluster = cluster
        self._address = address
        self._log_directory = log_directory
        self._owned: SharedDirectory | None = None
        self._own_tmpdir: str | None = None
        self._is_up = False
        # Not the pid: two containers may share a cluster, and a pid.
        self.namespace = f"{NAMESPACE_PREFIX}-{uuid.uuid4().hex[:12]}"
        self.num_cores = cluster.cpus or len(os.sched_getaffinity(0))

    def __enter__(self) -> ClusterSession:
        prepare_ray(self._address)
        keep_off_the_screen(self._log_directory / "ray_messages.log")
        remove_orphans()
        remove_orphans(tempfile.gettempdir())
        common: dict[str, Any] = {
            "namespace": self.namespace,
            "log_to_driver": False,
            "logging_level": logging.ERROR,
            "configure_logging": True,
        }
        if self._address:
            self._join(self._address, common)
            self._is_up = True
            return self
        # A folder of our own, so that nothing of the session stays on the machine; short, because
        # Ray puts sockets into it and their paths are limited to 107 characters.
        self._owned = SharedDirectory("ray", tempfile.gettempdir()).__enter__()
        scratch = self._owned.path
        for name, folder in (("VLLM_CACHE_ROOT", "vllm"), ("VLLM_CONFIG_ROOT", "vllm")):
            os.environ[name] = str(scratch / folder)
        (scratch / "tmp").mkdir()
        self._own_tmpdir = os.environ.get("TMPDIR")
        os.environ["TMPDIR"] = str(scratch / "tmp")  # of the workers; this process keeps its own
        settings = {
            "num_cpus": self.num_cores + self._cluster.engines,
            "include_dashboard": False,
            "_temp_dir": str(scratch),
        }
        try:
            self._start(common | settings)
        except BaseException:  # a Ctrl-C too: what was started by then must not stay
            self.abandon()
            raise
        self._is_up = True
        return self

    def _start(self, settings: Mapping[str, Any]) -> None:
        """Ray gives its own processes half a minute to come up, which a busy machine may need and
        no setting changes. Raises DeadlineExceeded.
        """
        before = set(psutil.Process().children(recursive=True))
        for left in reversed(range(STARTS)):
            try:
                ray.init(**settings)
                return
            except Exception as error:
                if TOO_LATE not in str(error):
                    raise
                started = set(psutil.Process().children(recursive=True)) - before
                _kill(started)
                if not left:
                    self._keep_logs()
                    raise DeadlineExceeded(
                        f"the driver waited for Ray to start on this machine, {STARTS} times for "
                        "half a minute",
                        help="`uptime` says how busy it is; `posttrain doctor` what else may be "
                        "wrong, and logs/ray in the run folder what Ray said",
                    ) from error

    def _join(self, address: str, common: dict[str, Any]) -> None:
        """Ray itself tries a dead address for minutes, so the port is knocked at first."""
        host, _, port = address.removeprefix("ray://").rpartition(":")
        try:
            if port.isdigit():
                socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()
            ray.init(address=address, **common)
        except (OSError, ValueError) as error:
            raise InputError(
                Problem(
                    "no-cluster",
                    f"no Ray cluster answers at {address}",
                    path="--address",
                    help="`ray status` on that machine says whether one runs, and whether it wants "
                    "a token (RAY_AUTH_MODE=token); without --address a local one is started",
                )
            ) from error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with _ended_for_certain():
            ray.shutdown()
        if kind is not None and not issubclass(kind, InputError):
            self._keep_logs()  # somebody will want to read them
        self._clean()

    def abandon(self) -> None:
        """Take everything down at once, from a signal handler: the process ends right after."""
        if self._is_up:
            with _ended_for_certain():
                killer = threading.Thread(target=ray.shutdown, daemon=True)
                killer.start()
                killer.join(timeout=5.0)
        else:  # Ray is still starting: to shut it down by its own means may crash
            _kill(psutil.Process().children(recursive=True))
        self._clean()

    def beside_the_driver(self) -> dict[str, Any]:
        """Options of an actor that is to die with this node only, and runs Ray Train.

        Not `soft`: then Ray puts it on other nodes whenever this one is busy.
        """
        node = ray.get_runtime_context().get_node_id()
        options: dict[str, Any] = {
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)
        }
        if self._address:  # a local cluster's processes inherit this one's environment
            options["runtime_env"] = {"env_vars": train_settings()}
        return options

    def _clean(self) -> None:
        remove_orphans()
        remove_orphans(tempfile.gettempdir())
        if self._owned is None:
            return
        os.environ.pop("TMPDIR", None)
        if self._own_tmpdir is not None:
            os.environ["TMPDIR"] = self._own_tmpdir
        self._owned.close()

    def _keep_logs(self) -> None:
        if self._owned is None:
            return
        for logs in self._owned.path.glob("session_2*/logs"):
            target = self._log_directory / "ray"
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(logs, target, ignore_dangling_symlinks=True)


@contextlib.contextmanager
def _ended_for_certain() -> Iterator[None]:
    """A local Ray's workers are killed if they outlive the block, in which it is shut down.

    They are to end by themselves when their raylet does; on a busy machine Ray Train's controllers
    were seen to stay for hours. They are looked for beforehand: afterwards nothing tells whose they
    were.
    """
    raylets = [each for each in psutil.Process().children() if _is_raylet(each)]
    workers = [worker for raylet in raylets for worker in raylet.children()]
    try:
        yield
    finally:
        _, alive = psutil.wait_procs(workers, WORKERS_END_S)
        _kill(alive)


def _kill(processes: Iterable[psutil.Process]) -> None:
    """And wait for their ends: until then they hold what is cleaned up next."""
    killed = list(processes)
    for process in killed:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(killed, WORKERS_END_S)


def _is_raylet(process: psutil.Process) -> bool:
    try:
        return process.name() == "raylet"
    except psutil.NoSuchProcess:
        return False


def keep_off_the_screen(log: Path) -> None:
    """What Ray says of dead processes and full memory goes into a file: our own events say it in
    the run's words, and lines in between tear the live view apart.

    Ray has no setting for it (`log_to_driver` is about what workers print), so the function that
    prints is replaced; where Ray names it otherwise some day, its messages are seen again.
    """
    from ray._private import worker

    def write(data: Mapping[str, Any], ignore_prefix: bool = False) -> None:
        clock = time.strftime("%H:%M:%S")
        with contextlib.suppress(OSError):  # a full disk must not end Ray's listener
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("a", encoding="utf-8") as file:
                file.writelines(f"{clock} {line}\n" for line in data["lines"])

    worker.print_to_stdstream = write
