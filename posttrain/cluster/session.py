"""A Ray session: joins a running cluster, or starts a local one and always takes it down."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import ray

from posttrain.config.pipeline import Cluster
from posttrain.errors import InputError, Problem
from posttrain.weight_sync.shared_directory import remove_orphans

NAMESPACE_PREFIX = "posttrain"
CONNECT_TIMEOUT_S = 5.0

# Set before Ray starts; its worker processes inherit them.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",  # 2 by default: that long a stage ends later
    "RAY_worker_niceness": "0",  # Ray's 15 starves a trainer beside anything else on two cores
    "VLLM_NO_USAGE_STATS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


class ClusterSession:
    """Context manager around `ray.init` and `ray.shutdown`.

    A local session declares one CPU slot per core and one more per engine: an engine that waits in
    the pool between two stages holds a slot, not a core.

    Both ends remove what dead trainers left in this host's shared memory: a trainer that is killed
    cannot remove its weights itself, and they would lie there until the host restarts.
    """

    def __init__(self, cluster: Cluster, address: str | None, log_directory: Path) -> None:
        self._cluster = cluster
        self._address = address
        self._log_directory = log_directory
        self._scratch: Path | None = None
        self.namespace = f"{NAMESPACE_PREFIX}-{os.getpid()}"
        self.num_cores = cluster.cpus or os.cpu_count() or 1

    def __enter__(self) -> ClusterSession:
        remove_orphans()
        os.environ.update({k: v for k, v in _ENVIRONMENT.items() if k not in os.environ})
        common: dict[str, Any] = {
            "namespace": self.namespace,
            "log_to_driver": False,
            "logging_level": logging.ERROR,
            "configure_logging": True,
        }
        if self._address:
            self._join(self._address, common)
            return self
        # A folder of our own, so that nothing of the session stays on the machine. Short, because
        # Ray puts sockets into it and their paths are limited to 107 characters.
        self._scratch = Path(tempfile.mkdtemp(prefix="posttrain-"))
        os.environ["VLLM_CACHE_ROOT"] = str(self._scratch / "vllm")
        os.environ["VLLM_CONFIG_ROOT"] = str(self._scratch / "vllm")
        # Asks a cloud whether this machine will be taken away; here it is one process more.
        os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"
        try:
            ray.init(
                num_cpus=self.num_cores + self._cluster.engines,
                include_dashboard=False,
                _temp_dir=str(self._scratch),
                **common,
            )
        except BaseException:  # a Ctrl-C too: what was started by then must not stay
            self.abandon()
            raise
        return self

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
                    help="`ray status` on that machine says whether one runs; without --address "
                    "a local one is started",
                )
            ) from error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        ray.shutdown()  # returns when this host's workers are dead
        remove_orphans()
        if self._scratch is not None:
            if kind is not None:  # somebody will want to read them
                self._keep_logs()
            shutil.rmtree(self._scratch, ignore_errors=True)

    def abandon(self) -> None:
        """Take everything down at once, from a signal handler: the process ends right after."""
        killer = threading.Thread(target=ray.shutdown, daemon=True)
        killer.start()
        killer.join(timeout=5.0)
        remove_orphans()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _keep_logs(self) -> None:
        assert self._scratch is not None
        for logs in self._scratch.glob("session_2*/logs"):
            target = self._log_directory / "ray"
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(logs, target, ignore_dangling_symlinks=True)
