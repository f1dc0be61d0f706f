"""A judge of our own: vLLM's OpenAI server for a model folder, on loopback, for as long as needed.

    with JudgeServer(spec, "judge@4f1c9a2e", log) as judge:
        settings = judge.settings  # endpoint, model and api_key_env of a judge reward

`with` returns once the server answers. It ends with the block, and with this process however that
dies (`leash`). Its key is made for it and reaches it, and the rewards, by the environment only.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from posttrain.cluster import leash
from posttrain.errors import DeadlineExceeded, EngineFailed
from posttrain.ports import EngineSpec
from posttrain.rollout.environment import UNWANTED, engine_environment

START_TIMEOUT_S = 900.0
_HOST = "127.0.0.1"
_POLL_S = 0.25
_ERROR = re.compile(r"\b[A-Z]\w*Error: .*")
_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


class JudgeServer:
    """`name` is what the model is called in requests; name its weights in it, for the cache's sake.

    `gpus` are the devices it may see (as in CUDA_VISIBLE_DEVICES), none for a CPU.
    """

    def __init__(
        self,
        spec: EngineSpec,
        name: str,
        log: Path,
        *,
        gpus: Sequence[str] = (),
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        self.name = name
        self.log = log
        self.api_key_env = f"POSTTRAIN_JUDGE_{secrets.token_hex(4).upper()}"
        self._key = secrets.token_urlsafe(32)
        self._spec = spec
        self._gpus = list(gpus)
        self._start_timeout_s = start_timeout_s
        self._port = 0
        self._pipe = -1
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://{_HOST}:{self._port}/v1"

    @property
    def settings(self) -> dict[str, str]:
        """What a judge reward's configuration says to be judged by this server."""
        return {"endpoint": self.endpoint, "model": self.name, "api_key_env": self.api_key_env}

    @property
    def environment(self) -> dict[str, str]:
        """What a process that scores needs in its environment, where it is no child of this one."""
        return {self.api_key_env: self._key}

    def __enter__(self) -> JudgeServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises EngineFailed where it ends instead, DeadlineExceeded where it takes too long.
        """
        self._port = _free_port()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        leash_end, self._pipe = os.pipe()
        command = [sys.executable, "-m", leash.__name__, str(leash_end), *self._command()]
        try:
            with self.log.open("wb") as log:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=(leash_end,),
                    env=self._environment(),
                    start_new_session=True,
                )
        finally:
            os.close(leash_end)
        try:
            self._wait_until_it_answers(self._process)
        except BaseException:
            self.stop()
            raise
        os.environ.update(self.environment)

    def stop(self) -> None:
        """End the server and all its processes. Calling it twice is fine."""
        os.environ.pop(self.api_key_env, None)
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(leash.GRACE_S + 5.0)
            with suppress(ProcessLookupError):  # all of its group have ended
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _command(self) -> list[str]:
        spec = self._spec
        options: dict[str, object] = {
            "model": spec.model_path,
            "served-model-name": self.name,
            "host": _HOST,
            "port": self._port,
            "dtype": _DTYPES[spec.precision],
            "max-model-len": spec.max_model_len,
            "max-num-seqs": spec.max_running,
            "seed": 0,
        }
        flags = ["--disable-uvicorn-access-log"]
        if spec.eager:
            flags.append("--enforce-eager")
        if spec.gpus == 0:
            options |= {
                "kv-cache-memory-bytes": spec.kv_cache_mb << 20,
                "block-size": spec.block_size,
            }
        else:
            options["tensor-parallel-size"] = spec.gpus
        named = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *named, *flags]

    def _environment(self) -> dict[str, str]:
        """Ours, without what would break an engine; its own process computes, not a thread."""
        environment = {name: value for name, value in os.environ.items() if name not in UNWANTED}
        environment = engine_environment(self._spec) | environment
        environment.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)
        environment["VLLM_LOGGING_LEVEL"] = "INFO"
        environment["VLLM_API_KEY"] = self._key
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        if self._spec.gpus == 0:  # vLLM would tie it to the cores where every other engine sits
            environment.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(self._gpus)
        return environment

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self._start_timeout_s
        while not _answers(f"http://{_HOST}:{self._port}/health"):
            if process.poll() is not None:
                raise EngineFailed(
                    f"the server of judge `{self.name}` ended before it answered: "
                    f"{_last_words(self.log)}",
                    help=f"its log: {self.log}",
                )
            if time.monotonic() > deadline:
                raise DeadlineExceeded(
                    f"waited {self._start_timeout_s:g} s for the server of judge `{self.name}` to "
                    f"load {self._spec.model_path} and answer at {self.endpoint}",
                    help=f"its log: {self.log}",
                )
            time.sleep(_POLL_S)


def _answers(url: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=5.0) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):  # not there yet
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def _last_words(log: Path) -> str:
    """The first line that names an error, which is the cause of those that follow; or the last."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    said = (_ERROR.search(line) for line in lines if " WARNING " not in line)
    named = (match[0] for match in said if match)
    return next(named, lines[-1] if lines else "it said nothing")[:300]
