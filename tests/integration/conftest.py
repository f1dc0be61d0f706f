"""Runs the real command line in a folder of its own, and watches the processes that it starts."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PIPELINE = """
name: tiny
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
from posttrain.reward.protocol import GoldExample
from posttrain.types import Score


class Config(StrictModel):
    """Settings."""

    goal: int = 4
    """Characters."""


def score(row, completion, config):
    return Score(1.0 / (1 + abs(len(completion) - config.goal)))


GOLD = [GoldExample({}, "12345", 1.0), GoldExample({}, "1234567", 1 / 3)]
'''


class Workplace:
    """A folder with a pipeline, and the command line in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "tiny.yaml").write_text(PIPELINE)
        (path / "short_reward.py").write_text(REWARD)

    @property
    def run_folder(self) -> Path:
        return self.path / "runs" / "tiny"

    def start(self, *arguments: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "posttrain.cli", *arguments],
            cwd=self.path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def posttrain(self, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=timeout)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def stage_folder(self, stage: str) -> Path:
        """The stage's newest identity."""
        folders = sorted((self.run_folder / stage).iterdir(), key=lambda p: p.stat().st_mtime)
        return folders[-1]

    def wait_for(self, what, process: subprocess.Popen, timeout: float = 240) -> None:
        end = time.monotonic() + timeout
        while not what():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < end, "waited too long"
            time.sleep(0.2)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    return Workplace(tmp_path_factory.mktemp("workplace"))


def our_processes() -> set[tuple[int, str]]:
    """Processes of Ray, vLLM or ours, whoever started them."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            state = (folder / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except (OSError, IndexError):
            continue
        is_ours = any(w in words for w in ("ray::", "raylet", "gcs_server", "posttrain.cli"))
        if is_ours and state != "Z" and int(folder.name) != os.getpid():
            found.add((int(folder.name), words[:100]))
    return found


def shared_memory() -> set[str]:
    return {p.name for p in Path("/dev/shm").glob("posttrain-*-tiny-*")}


def scratch_folders() -> set[str]:
    return {p.name for p in Path("/tmp").glob("posttrain-*")}


def leftovers_of(before: tuple, patience_s: float = 10.0) -> tuple:
    """What is there now and was not before; waits a little for processes on their way out."""
    end = time.monotonic() + patience_s
    while True:
        now = (
            our_processes() - before[0],
            shared_memory() - before[1],
            scratch_folders() - before[2],
        )
        if now == (set(), set(), set()) or time.monotonic() > end:
            return now
        time.sleep(0.5)


def present() -> tuple:
    return (our_processes(), shared_memory(), scratch_folders())


NOTHING = (set(), set(), set())
__all__ = ["NOTHING", "Workplace", "leftovers_of", "present", "signal"]
