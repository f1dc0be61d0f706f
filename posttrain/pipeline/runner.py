"""Runs a plan: stages, the suites' questions after each model, gates; everything into the run
folder.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.config.load import LoadedPipeline
from posttrain.config.tasks import suite_tasks
from posttrain.errors import GateFailed, Interrupted
from posttrain.files import write_json
from posttrain.pipeline.gates import Gate, evaluate_gate, parse_gate, resolve_gate
from posttrain.pipeline.plan import PlannedStage, RunPlan
from posttrain.pipeline.results import (
    asked_suites,
    is_measured,
    measurement_path,
    recommended,
    task_values,
)
from posttrain.pipeline.room import Held, Room, held, one_engine
from posttrain.pipeline.scheduler import Job, run_jobs
from posttrain.pipeline.stage_run import StageLauncher, StageRunner
from posttrain.pipeline.store import RunFolder
from posttrain.stages.measure import Evaluator
from posttrain.track.jsonl import JsonlWriter


@dataclass(slots=True)
class Runner:
    """One run of one plan. `run()` blocks; `ask_to_stop()` may come from a signal handler."""

    plan: RunPlan
    folder: RunFolder
    run_id: str
    launcher: StageLauncher
    num_cores: int
    room: Room  # of the whole cluster
    on_tick: Any = lambda: None
    gates_stop: bool = True  # else a failed gate is told, and what follows is run
    _evaluator: Evaluator = field(init=False)
    _stages: StageRunner = field(init=False)
    _events: JsonlWriter = field(init=False)
    _stop: threading.Event = field(default_factory=threading.Event)
    _stop_passed_on: bool = False

    def __post_init__(self) -> None:
        loaded = self.plan.loaded
        self._evaluator = Evaluator(self.launcher, loaded.cluster)
        self._events = JsonlWriter(self.folder.path / "events.jsonl", lambda text: None)
        self._stages = StageRunner(
            plan=self.plan,
            folder=self.folder,
            run_id=self.run_id,
            launcher=self.launcher,
            evaluator=self._evaluator,
            num_cores=self.num_cores,
            event=self._event,
            stop_asked=self._stop.is_set,
        )

    def ask_to_stop(self) -> None:
        """Save what runs, start nothing new. Only sets a flag: safe in a signal handler."""
        self._stop.set()

    def _tick(self) -> None:
        if self._stop.is_set() and not self._stop_passed_on:
            self._stop_passed_on = True
            self.launcher.request_stop()
        self.on_tick()

    def run(self) -> str | None:
        """Run everything that is not done. Returns the recommended stage, if one was asked for.

        Raises the first error of a stage, GateFailed, or Interrupted. What is done stays done.
        """
        with closing(self._evaluator):
            errors = run_jobs(
                self._jobs(),
                {
                    "engines": self.plan.loaded.cluster.engines,
                    "training stages": 1,
                    "cpus": self.room.cpus,
                    "gpus": self.room.gpus,
                },
                on_tick=self._tick,
                stop_asked=self._stop.is_set,
            )
        interrupted = [e for e in errors.values() if isinstance(e, Interrupted)]
        real = [e for e in errors.values() if not isinstance(e, Interrupted)]
        if real:
            raise real[0]
        if interrupted or self._stop.is_set():
            raise interrupted[0] if interrupted else Interrupted("stopped")
        chosen = recommended(self.plan, self.folder)
        if chosen:
            self._link_best(Path(self._stages.artifact(chosen).path))
        return chosen

    # -- jobs -----------------------------------------------------------------------------------

    def _jobs(self) -> list[Job]:
        jobs: list[Job] = []
        loaded = self.plan.loaded
        for stage in self.plan.stages:
            needs = {f"stage {need}" for need in stage.needs}
            needs |= {f"gates {need}" for need in stage.needs if self.plan[need].stage.gates}
            uses = _resources(stage, loaded)
            jobs.append(
                Job(f"stage {stage.name}", _bind(self._stages.run, stage), frozenset(needs), uses)
            )
            if asked_suites(self.plan, stage):
                jobs.append(
                    Job(
                        f"measure {stage.name}",
                        _bind(self._measure, stage),
                        frozenset({f"stage {stage.name}"}),
                        {} if self._is_measured(stage) else _uses(one_engine(loaded.cluster)),
                    )
                )
        for stage in self.plan.stages:
            if stage.stage.gates:
                jobs.append(self._gate_job(stage, {job.name for job in jobs}))
        return jobs

    def _gate_job(self, stage: PlannedStage, present: set[str]) -> Job:
        names = [other.name for other in self.plan.stages]
        gates = [
            resolve_gate(parse_gate(text), names, self._all_tasks()) for text in stage.stage.gates
        ]
        asked = {stage.name}
        asked |= {name for gate in gates for name in gate.stages if name in names}
        if any(side.measure == "tax" for gate in gates for side in (gate.left, gate.right)):
            asked |= {suite.tax_since for suite in self.plan.suites.values() if suite.tax_since}
        needs = {f"measure {name}" for name in asked} & present
        return Job(
            f"gates {stage.name}",
            lambda: self._check_gates(stage, gates),
            frozenset(needs | {f"stage {stage.name}"}),
        )

    def _all_tasks(self) -> list[str]:
        return [task for suite in self.plan.suites.values() for task in suite_tasks(suite)]

    # -- suites and gates -----------------------------------------------------------------------

    def _is_measured(self, planned: PlannedStage) -> bool:
        folder = self.folder.stage(planned.name, planned.identity)
        names = asked_suites(self.plan, planned)
        return all(is_measured(folder, name, self.plan.fingerprints[name]) for name in names)

    def _measure(self, planned: PlannedStage) -> None:
        folder = self.folder.stage(planned.name, planned.identity)
        for name in asked_suites(self.plan, planned):
            path = measurement_path(folder, name)
            fingerprint = self.plan.fingerprints[name]
            if is_measured(folder, name, fingerprint):
                continue
            if self._stop.is_set():
                raise Interrupted(f"{planned.name} was not measured")
            measurement = self._evaluator.measure(
                self._stages.artifact(planned.name).path, name, self.plan.suites[name], fingerprint
            )
            path.parent.mkdir(exist_ok=True)
            write_json(path, measurement.to_json())
            self._event("measured", planned.name, suite=name, seconds=measurement.seconds)

    def _check_gates(self, planned: PlannedStage, gates: list[Gate]) -> None:
        measured = {
            stage.name: task_values(self.plan, self.folder, stage) for stage in self.plan.stages
        }
        for gate in gates:
            result = evaluate_gate(gate, measured, here=planned.name)
            self._event(
                "gate", planned.name, gate=gate.text, verdict=result.verdict, text=result.text
            )
            if result.verdict == "fail" and self.gates_stop:
                raise GateFailed(
                    f"gate `{gate.text}` failed: {result.text}",
                    place=f"stages.{planned.name}.gates",
                    help=f"what follows {planned.name} was not started; its model is kept. Change "
                    "the stage, or the gate, and run again",
                )

    def _link_best(self, target: Path) -> None:
        link = self.folder.path / "best"
        temporary = link.with_name(".best")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(os.path.relpath(target, self.folder.path.resolve()))
        temporary.replace(link)

    def _event(self, name: str, stage: str | None, **details: Any) -> None:
        self._events.append({"time": time.time(), "stage": stage, "name": name, **details})


def _bind(method: Any, planned: PlannedStage) -> Any:
    return lambda: method(planned)


def _resources(planned: PlannedStage, loaded: LoadedPipeline) -> dict[str, int]:
    if planned.kept:
        return {}
    return _uses(held(planned.stage, loaded.cluster, loaded.base_dir))


def _uses(wants: Held) -> dict[str, int]:
    """Stages that train take turns. What finds no room waits here, where that may take hours: in
    the cluster there is a deadline. A stage without engine and trainer calls functions, one at a
    time.
    """
    return {
        "engines": wants.engines,
        "training stages": int(wants.trainers > 0),
        "cpus": max(1, wants.all.cpus),
        "gpus": wants.all.gpus,
    }
