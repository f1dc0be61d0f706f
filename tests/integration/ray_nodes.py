"""A Ray cluster on this host: each node has processes, ports and a temporary folder of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from functools import partial
from pathlib import Path

import psutil
from conftest import MARK, PATIENCE_S, Workplace

from posttrain.cluster.environment import SETTINGS

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]
# `ray`, but for its refusal to let other nodes join a head that listens on 127.0.0.1 only, and for
# Ray Client's server: nobody talks to it, and it ends its node where that takes 30 s to come up.
RAY = """
import types
import ray.scripts.scripts as scripts
constants = vars(scripts.ray_constants) | {"ENABLE_RAY_CLUSTER": True}
scripts.ray_constants = types.SimpleNamespace(**constants)
scripts.get_ray_client_dependency_error = lambda: "not wanted"
scripts.main()
"""
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # see posttrain.cluster.environment
if (Path.home() / ".ray" / "auth_token").exists():
    LOOPBACK["RAY_AUTH_MODE"] = "token"  # `ray start --head` turns it on by itself, workers do not


class RayNodes:
    """Context manager: a head without CPUs, which keeps the driver, and workers of one CPU each."""

    def __init__(self, place: Workplace) -> None:
        self._place = place
        self._port, self._dashboard = _free_port(), _free_port()
        # Short: Ray puts sockets there, and their paths are limited to 107 characters.
        self._scratch = Path(tempfile.mkdtemp(prefix="rn-"))
        self._nodes: list[psutil.Process] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._dashboard}"

    @property
    def head(self) -> psutil.Process:
        return self._nodes[0]

    def __enter__(self) -> RayNodes:
        try:
            head = self._start(
                "--head", f"--port={self._port}", "--num-cpus=0", "--dashboard-host=127.0.0.1",
                f"--dashboard-port={self._dashboard}",
            )  # fmt: skip
            self._wait_for(partial(_has_raylet, head))
            self._wait_for(self._answers)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def add(self, count: int) -> None:
        """More nodes of one CPU, all at once; returns once their raylets run."""
        address = f"--address=127.0.0.1:{self._port}"
        fresh = [self._start(address, "--num-cpus=1") for _ in range(count)]
        for node in fresh:
            self._wait_for(partial(_has_raylet, node))

    def of(self, process: int) -> psutil.Process:
        """The node that a worker process belongs to: its raylet's."""
        raylet = psutil.Process(process).parent()
        assert raylet is not None and raylet.name() == "raylet"
        return next(node for node in self._nodes if raylet in node.children(recursive=True))

    def kill(self, node: psutil.Process) -> None:
        """All processes of a node at once, as if its power had failed."""
        self._nodes.remove(node)
        _kill_all([node])

    def _start(self, *options: str) -> psutil.Process:
        number = len(list(self._scratch.iterdir()))
        folder = self._scratch / str(number)
        folder.mkdir()
        with (self._scratch / str(number) / "log").open("w") as log:
            process = subprocess.Popen(
                [
                    sys.executable, "-c", RAY, "start", *options, "--block",
                    "--node-ip-address=127.0.0.1", f"--temp-dir={folder}",
                    "--object-store-memory=80000000",
                    "--dashboard-agent-listen-port=0", "--disable-usage-stats",
                ],
                env=os.environ
                | SETTINGS
                | {
                    MARK: self._place.name,
                    "PATH": f"{BIN}:{os.environ['PATH']}",
                    "PYTHONPATH": str(ROOT),
                    "RAY_health_check_period_ms": "500",  # 3000 by default: a death is seen later
                    **LOOPBACK,
                },
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        node = psutil.Process(process.pid)
        self._nodes.append(node)
        self._place.watch(process.pid)
        return node

    def _answers(self) -> bool:
        try:
            return urllib.request.urlopen(f"{self.address}/api/version", timeout=5).status == 200
        except urllib.error.HTTPError:
            return True  # it is there, and wants a token
        except OSError:
            return False

    def _wait_for(self, what) -> None:
        end = time.monotonic() + PATIENCE_S
        while not what():
            logs = "".join(log.read_text()[-2000:] for log in self._scratch.glob("*/log"))
            assert time.monotonic() < end, f"a Ray node does not come up: {logs}"
            assert all(node.status() != psutil.STATUS_ZOMBIE for node in self._nodes), logs
            time.sleep(0.3)

    def _end(self) -> None:
        _kill_all(self._nodes)
        shutil.rmtree(self._scratch, ignore_errors=True)


def _has_raylet(node: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):  # one of its processes ended meanwhile
        return any(process.name() == "raylet" for process in node.children(recursive=True))
    return False


def _kill_all(nodes: list[psutil.Process]) -> None:
    victims = list(nodes)
    for node in nodes:
        with contextlib.suppress(psutil.NoSuchProcess):
            victims += node.children(recursive=True)
    for process in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(victims, timeout=10.0)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
