"""One online stage on a blank model, processes of it to kill, and what must hold of its records."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from conftest import PATIENCE_S, Workplace

PIPELINE = """
name: NAME
seed: 5
cluster: laptop
wandb: {mode: disabled}
stages:
  blank: {kind: model, from_scratch: micro}
  rlvr:
    kind: online_rl
    model: blank
    algorithm: {name: grpo, lr: RATE, schedule: SCHEDULE}
    reward: {name: ./short_reward.py, goal: 5}
    data: {path: microworld/arithmetic, take: 200}
    batch: {prompts: PROMPTS, samples_per_prompt: SAMPLES}
    steps: STEPS
    staleness: {max: MAX, ahead: AHEAD}
    checkpoint_every: EVERY
    sampling: {max_new_tokens: TOKENS}
"""
VICTIMS = {  # what the processes of a run call themselves
    "engine": "ray::EngineActor",
    "coordinator": "ray::CoordinatorActor",
    "trainer": "ray::RayTrainWorker",
    "trainer groups": "ray::TrainerGroups",
    "reward worker": "ray::RewardActor",
    "verifier": "posttrain.reward.child",
    "tracker": "ray::TrackerActor",
}


class OnlineRun:
    """A run of the pipeline above. `batch` is (prompts, samples per prompt)."""

    def __init__(
        self,
        place: Workplace,
        *,
        steps: int,
        tokens: int,
        batch: tuple[int, int] = (4, 4),
        staleness: int = 2,
        ahead: int = 1,
        checkpoint_every: int = 5,
        lr: float = 1e-5,
        schedule: str = "constant",
    ) -> None:
        self.place = place
        self.name = place.name
        self.steps, self.batch, self.staleness = steps, batch, staleness
        values = {
            "NAME": self.name, "PROMPTS": batch[0], "SAMPLES": batch[1], "STEPS": steps,
            "MAX": staleness, "AHEAD": ahead, "EVERY": checkpoint_every, "TOKENS": tokens,
            "RATE": lr, "SCHEDULE": schedule,
        }  # fmt: skip
        text = PIPELINE
        for key, value in values.items():
            text = text.replace(key, str(value))
        self._file = "online.yaml"
        (place.path / self._file).write_text(text)
        self.process: subprocess.Popen | None = None
        self.said = ""

    @property
    def folder(self) -> Path:
        """The stage's folder; the parent of it is there once the run has begun."""
        return next((self.place.path / "runs" / self.name / "rlvr").iterdir())

    def run(self) -> None:
        self.process = self.place.start("run", self._file)

    def resume(self) -> None:
        self.process = self.place.start("resume", self.name)

    def finish(self, timeout: float = PATIENCE_S) -> str:
        """What it said on its way to exit code 0."""
        _, self.said = self.process.communicate(timeout=timeout)
        assert self.process.returncode == 0, self.said[-3000:]
        return self.said

    def steps_done(self) -> int:
        """Steps that were trained at least once."""
        stage = self.place.path / "runs" / self.name / "rlvr"
        return len(list(stage.glob("*/rollouts/step-*.parquet")))

    def wait_for_step(self, step: int) -> None:
        self.place.wait_for(lambda: self.steps_done() >= step, self.process)

    def victims(self, kind: str) -> list[int]:
        """Processes of that kind, oldest first."""
        return self.place.elders(VICTIMS[kind])

    def newest(self, kind: str) -> int:
        """Waits for one to be there."""
        return self.place.wait_for(lambda: self.victims(kind), self.process)[-1]

    def kill(self, kind: str) -> None:
        """kill -9 the newest process of that kind; the one after it where that has just ended."""
        while True:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.newest(kind), signal.SIGKILL)
                return

    def kill_driver(self) -> None:
        """And wait for what it had started: engines go on until their raylet has noticed."""
        self.place.kill_driver(self.process)

    # -- records --------------------------------------------------------------------------------

    def events(self, name: str) -> list[dict[str, Any]]:
        return [event for event in lines(self.folder / "events.jsonl") if event["name"] == name]

    def wait_for_event(self, name: str, count: int = 1) -> None:
        self.place.wait_for(lambda: len(self.events(name)) >= count, self.process)

    def rows(self) -> list[dict[str, Any]]:
        return lines(self.folder / "metrics.jsonl")

    def metric(self, name: str) -> list[float]:
        return series(self.rows(), name)

    def rollouts(self, step: int) -> list[dict[str, Any]]:
        return rollouts_of(self.folder, step)

    def reward_at_the_end(self, steps: int) -> float:
        """Mean reward over the last `steps` steps."""
        last = range(self.steps - steps, self.steps)
        return statistics.fmean(row["score"] for step in last for row in self.rollouts(step))

    def answers(self, step: int) -> list[tuple[Any, ...]]:
        """What a step was trained on, token for token."""
        names = ("draw", "sample", "token_ids", "versions", "logprobs", "score")
        return [tuple(map(str, (row[name] for name in names))) for row in self.rollouts(step)]

    def check_records(self) -> None:
        """Nothing lost, nothing twice, nothing too old."""
        check_records(self.folder, self.steps, self.batch, self.staleness)


LEDGER_EVENTS = ("admitted", "scored", "accepted", "dropped", "filtered", "trained", "committed")


def lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file that may be growing."""
    if not path.exists():
        return []
    content = path.read_bytes()
    return [json.loads(line) for line in content[: content.rfind(b"\n") + 1].splitlines()]


def series(rows: list[dict[str, Any]], name: str) -> list[float]:
    """A metric's values, of the rows that have it."""
    return [row[name] for row in rows if name in row]


def rollouts_of(folder: Path, step: int) -> list[dict[str, Any]]:
    return pq.read_table(folder / "rollouts" / f"step-{step:06d}.parquet").to_pylist()


def check_records(folder: Path, steps: int, batch: tuple[int, int], staleness: int) -> None:
    """Of a whole online stage: nothing lost, nothing twice, nothing too old."""
    prompts, samples = batch
    metrics = lines(folder / "metrics.jsonl")
    rows = [row for step in range(steps) for row in rollouts_of(folder, step)]
    assert len(rows) == steps * prompts * samples
    trained = Counter(row["draw"] for row in rows)
    assert set(trained.values()) == {samples}
    assert max(row["age"] for row in rows) <= staleness
    for row in rows:
        assert row["step"] - min(row["versions"], default=row["step"]) <= staleness

    ledger = lines(folder / "ledger.jsonl")
    of_kind = {name: [e for e in ledger if e["event"] == name] for name in LEDGER_EVENTS}
    batches = {event["step"]: event["draws"] for event in of_kind["trained"]}
    assert len(batches) == len(of_kind["trained"]) == steps  # no batch was made twice
    assert [event["step"] for event in of_kind["trained"]] == list(range(steps))
    for step, draws in batches.items():
        assert sorted(draws) == sorted({row["draw"] for row in rows if row["step"] == step})
    admitted = [event["draw"] for event in of_kind["admitted"]]
    assert len(admitted) == len(set(admitted))
    assert of_kind["dropped"] == []
    assert set(admitted) == set(trained)  # every draw given out was trained
    assert sorted(trained) == list(range(steps * prompts))
    told = [row["axis/step"] for row in metrics if "reward/mean" in row]
    assert sorted(set(told)) == list(range(steps))
    assert set(series(metrics, "ops/rollouts_lost")) == {0}
    assert set(series(metrics, "ops/trained_twice")) == {0}
    assert series(metrics, "groups/dropped")[-1] == 0.0
