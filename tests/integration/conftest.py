"""Runs the real command line in a folder of its own, and watches the processes that it starts."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

PIPELINE = """
name: NAME
seed: 3
cluster: laptop
wandb: {mode: offline}
suites:
  abilities:
    gain: [microworld/arithmetic]
    keep: [microworld/copy, microworld/count]
    prompts_per_task: 32
    tax_since: base
stages:
  blank: {kind: model, from_scratch: micro}
  base:
    kind: sft
    uses: sft/pretrain
    model: blank
    data: {path: microworld/arithmetic_worked, take: 2000}
    steps: 25
  rlvr:
    kind: online_rl
    model: base
    algorithm: {name: grpo, lr: 1e-3}
    reward: {name: ./short_reward.py, goal: 5}
    data: {path: microworld/arithmetic, take: 200}
    batch: {prompts: 8, samples_per_prompt: 4}
    steps: 4
    staleness: 1
    sampling: {max_new_tokens: 12}
    checkpoint_every: 2
    logprob_check_every: 2
  average: {kind: average, method: linear, pre: base, post: rlvr, weight_pre: 0.5}
  final:
    kind: evaluate
    models: [base, rlvr, average]
    suite: {use: abilities, prompts_per_task: 64}
    recommend: {most: gain, tax_at_most: 100}
"""

# A dense reward, so that a barely trained model has something to learn from in a few steps.
REWARD = '''
"""The nearer the answer's length is to a goal, the better."""

from posttrain.config.strict import StrictModel
from posttrain.reward.protocol import Example
from posttrain.types import Score


class Config(StrictModel):
    """Settings."""

    goal: int = 4
    """Characters."""


def score(row, completion, config):
    return Score(1.0 / (1 + abs(len(completion) - config.goal)))


def gold(config):
    return [Example({}, "1" * config.goal)]


def bad(config):
    return [Example({}, "1" * (config.goal + 2))]
'''


# Waits end where something hangs. How long a thing takes on a slow machine, beside the tests of
# another process, is not what these tests are about.
PATIENCE_S = 900.0
# Of a raylet that was killed; Ray gives them a minute to notice.
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
MARK = "POSTTRAIN_TEST_WORKPLACE"  # in the environment of what a workplace starts


def _heed_ctrl_c() -> None:
    """As from a terminal: what a shell starts in the background ignores it, children too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Workplace:
    """A folder with a pipeline, and the command line in it.

    Others may run the same tests on this machine. What belongs to this workplace is known by the
    session (setsid) of the drivers that it started, by a mark in the environment (verifiers have
    sessions of their own, and Ray's processes overwrite their environment), and by the run's name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = f"tiny-{uuid.uuid4().hex[:8]}"  # of runs of tiny.yaml
        self._drivers: set[int] = set()
        (path / "tiny.yaml").write_text(PIPELINE.replace("NAME", self.name))
        (path / "short_reward.py").write_text(REWARD)

    @property
    def run_folder(self) -> Path:
        return self.path / "runs" / self.name

    def start(self, *arguments: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-m", "posttrain.cli", *arguments],
            cwd=self.path,
            env=os.environ | {MARK: self.name},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=_heed_ctrl_c,
        )
        self._drivers.add(process.pid)
        return process

    def watch(self, session: int) -> None:
        """Processes of that session belong here too."""
        self._drivers.add(session)

    def posttrain(
        self, *arguments: str, timeout: float = PATIENCE_S
    ) -> subprocess.CompletedProcess:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=timeout)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def stage_folder(self, stage: str) -> Path:
        """The stage's newest identity."""
        folders = sorted((self.run_folder / stage).iterdir(), key=lambda p: p.stat().st_mtime)
        return folders[-1]

    def wait_for(self, what, process: subprocess.Popen) -> Any:
        """What `what()` says, once it says anything."""
        end = time.monotonic() + PATIENCE_S
        while not (found := what()):
            if process.poll() is not None and not what():  # not even when it ended
                raise AssertionError(process.communicate()[1])
            assert time.monotonic() < end, "waited too long"
            time.sleep(0.2)
        return found

    def kill_driver(self, process: subprocess.Popen) -> None:
        """And wait for what it had started: it goes on until its raylet has noticed."""
        process.kill()
        process.communicate(timeout=PATIENCE_S)
        end = time.monotonic() + PATIENCE_S
        actors = ("ray::EngineActor", "ray::CoordinatorActor", "ray::RayTrainWorker")
        while any(self.processes(each) for each in actors):
            assert time.monotonic() < end, "a killed driver's actors are still there"
            time.sleep(0.1)

    # -- what is there of this workplace --------------------------------------------------------

    def processes(self, name: str = "") -> dict[int, str]:
        """Command line by process id of what lives here, oldest first; `name` is a part of it."""
        found = {}
        mark = f"{MARK}={self.name}".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                state, _, _, session = (folder / "stat").read_text().rsplit(")", 1)[1].split()[:4]
                environment = (folder / "environ").read_bytes().split(b"\0")
                words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:  # ended meanwhile
                continue
            ours = int(session) in self._drivers or mark in environment
            if state != "Z" and ours and name in words:
                found[int(folder.name)] = words[:100]
        return dict(sorted(found.items()))

    def elders(self, name: str) -> list[int]:
        """Those processes, but for what one of them has just forked, which for a moment bears its
        name.
        """
        found = self.processes(name)
        return [process for process in found if _parent(process) not in found]

    @contextmanager
    def slow(self, name: str, share: float = 0.1) -> Iterator[None]:
        """That process computes only for a share of the time, as if its model were large."""
        (victim,) = self.elders(name)
        over = threading.Event()

        def hold_back() -> None:
            with contextlib.suppress(ProcessLookupError):  # its end is the end of this
                while not over.wait(0.2 * share):
                    os.kill(victim, signal.SIGSTOP)
                    time.sleep(0.2 * (1 - share))
                    os.kill(victim, signal.SIGCONT)

        thread = threading.Thread(target=hold_back)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def leftovers(self, patience_s: float = 30.0, besides: tuple[str, ...] = ()) -> list[str]:
        """What is still there of it, `besides` some; waits a little for what is on its way out, and
        not for the minute after which the agents of a killed raylet notice.
        """
        end = time.monotonic() + patience_s
        while True:
            folders = [*Path("/dev/shm").glob(f"posttrain-*-{self.name}-*")]
            for driver in self._drivers:
                folders += Path("/tmp").glob(f"posttrain-{driver}-*")
            left = [*self.processes().values(), *map(str, folders)]
            left = [each for each in left if not each.startswith(besides)]
            if not left or time.monotonic() > end:
                return left
            time.sleep(0.5)


def _parent(process: int) -> int | None:
    try:
        return psutil.Process(process).ppid()
    except psutil.NoSuchProcess:
        return None


def findings_of(program: Path | str, folder: Path, *words: str) -> dict[str, Any]:
    """What a program beside the tests, or a test's own file, prints: JSON in its last line. vLLM
    reads its environment once per process, so an engine with other settings has to have its own.
    """
    done = subprocess.run(
        [sys.executable, program, str(folder), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    print(last)  # shown where a test fails, or with -s
    return json.loads(last)


@contextmanager
def new_workplace(path: Path) -> Iterator[Workplace]:
    place = Workplace(path)
    yield place
    for process in place.processes():  # of a test that failed half-way
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    with new_workplace(tmp_path_factory.mktemp("workplace")) as place:
        yield place
