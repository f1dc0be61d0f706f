"""Runs a plan: stages, the suites' questions after each model, gates; everything into the run
folder.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml

from posttrain.config.pipeline import (
    AverageStage,
    EvaluateStage,
    ModelStage,
    OnlineRlStage,
    SftStage,
)
from posttrain.config.tasks import suite_tasks
from posttrain.errors import GateFailed, Interrupted, PosttrainError, StageFailed
from posttrain.pipeline.gates import Gate, evaluate_gate, parse_gate, resolve_gate
from posttrain.pipeline.plan import PlannedStage, RunPlan
from posttrain.pipeline.provenance import git_state, machine, versions
from posttrain.pipeline.results import (
    asked_suites,
    is_measured,
    measurement_path,
    recommended,
    task_values,
)
from posttrain.pipeline.scheduler import Job, run_jobs
from posttrain.pipeline.store import RunFolder, StageFolder, read_json, write_json
from posttrain.stages import average, evaluate, model, online_rl, sft
from posttrain.stages.context import StageContext
from posttrain.stages.launcher import Launcher
from posttrain.stages.measure import Evaluator
from posttrain.track.jsonl import JsonlWriter
from posttrain.types import Artifact

SCHEMA = 1


class StageLauncher(Launcher, Protocol):
    """A launcher that also keeps each stage's records."""

    def open_stage(self, **stage: Any) -> Any: ...

    def close_stage(self, stage: str, summary: Mapping[str, Any]) -> dict[str, float]: ...

    def request_stop(self) -> None: ...


@dataclass(slots=True)
class Runner:
    """One run of one plan. `run()` blocks; `ask_to_stop()` may come from a signal handler."""

    plan: RunPlan
    folder: RunFolder
    run_id: str
    launcher: StageLauncher
    num_cores: int
    on_tick: Any = lambda: None
    _evaluator: Evaluator = field(init=False)
    _events: JsonlWriter = field(init=False)
    _stop: threading.Event = field(default_factory=threading.Event)
    _stop_passed_on: bool = False

    def __post_init__(self) -> None:
        loaded = self.plan.loaded
        self._evaluator = Evaluator(self.launcher, loaded.cluster)
        self._events = JsonlWriter(self.folder.path / "events.jsonl", lambda text: None)

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
        errors = run_jobs(
            self._jobs(),
            {"engines": self.plan.loaded.cluster.engines, "trainers": 1},
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
            self._link_best(Path(self._artifact(chosen).path))
        return chosen

    # -- jobs -----------------------------------------------------------------------------------

    def _jobs(self) -> list[Job]:
        jobs: list[Job] = []
        for stage in self.plan.stages:
            needs = {f"stage {need}" for need in stage.needs}
            needs |= {f"gates {need}" for need in stage.needs if self.plan[need].stage.gates}
            uses = _resources(stage)
            jobs.append(
                Job(f"stage {stage.name}", _bind(self._run_stage, stage), frozenset(needs), uses)
            )
            if asked_suites(self.plan, stage):
                jobs.append(
                    Job(
                        f"measure {stage.name}",
                        _bind(self._measure, stage),
                        frozenset({f"stage {stage.name}"}),
                        {"engines": 1},
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
        needs = {f"measure {name}" for name in asked} & present
        return Job(
            f"gates {stage.name}",
            lambda: self._check_gates(stage, gates),
            frozenset(needs | {f"stage {stage.name}"}),
        )

    def _all_tasks(self) -> list[str]:
        return [task for suite in self.plan.suites.values() for task in suite_tasks(suite)]

    # -- one stage --------------------------------------------------------------------------------

    def _run_stage(self, planned: PlannedStage) -> None:
        folder = self.folder.stage(planned.name, planned.identity)
        if folder.is_done:
            return
        if self._stop.is_set():
            raise Interrupted(f"{planned.name} was not started")
        manifest = self._begin(planned, folder)
        context = self._context(planned, folder, manifest["attempt"])
        try:
            outcome = self._dispatch(planned, context)
            if outcome == "stopped":
                raise Interrupted(f"{planned.name} was stopped and saved")
        except PosttrainError as error:
            self._end(planned, folder, manifest, error)
            raise
        except Exception as error:  # a bug of ours: recorded in the manifest like any other failure
            self._end(planned, folder, manifest, StageFailed(f"{type(error).__name__}: {error}"))
            raise
        self._end(planned, folder, manifest, None)

    def _dispatch(self, planned: PlannedStage, context: StageContext) -> str:
        stage = planned.stage
        plugins = planned.plugins
        if isinstance(stage, ModelStage):
            return model.run(stage, context)
        if isinstance(stage, SftStage):
            return sft.run(stage, plugins["algorithm"], context)
        if isinstance(stage, OnlineRlStage):
            return online_rl.run(stage, plugins["algorithm"], plugins["reward"], context)
        if isinstance(stage, AverageStage):
            return average.run(stage, plugins["method"], context)
        if isinstance(stage, EvaluateStage):
            assert planned.suite is not None
            result = evaluate.run(
                stage,
                planned.suite,
                planned.suite_fingerprint,
                context.inputs,
                self._evaluator,
                context.tracker,
            )
            write_json(context.directory / "measurements.json", result)
            return "done"
        raise StageFailed(f"no way to run a stage of kind {type(stage).__name__}")

    def _context(self, planned: PlannedStage, folder: StageFolder, attempt: int) -> StageContext:
        tracker = self.launcher.open_stage(
            name=planned.name,
            kind=planned.kind,
            identity=planned.identity,
            directory=str(folder.path.resolve()),
            attempt=attempt,
            config=planned.config(),
            inputs={need: self.plan[need].identity for need in planned.needs},
            run_name=self.plan.loaded.pipeline.name,
            run_id=self.run_id,
        )
        return StageContext(
            name=planned.name,
            directory=folder.path.resolve(),
            inputs={need: self._artifact(need) for need in planned.needs},
            launcher=self.launcher,
            tracker=tracker,
            cluster=self.plan.loaded.cluster,
            num_cores=self.num_cores,
            seed=planned.seed,
            attempt=attempt,
            base_dir=str(self.plan.loaded.base_dir),
        )

    def _artifact(self, name: str) -> Artifact:
        planned = self.plan[name]
        folder = self.folder.stage(name, planned.identity)
        return folder.artifact(planned.stage.produces)  # type: ignore[arg-type]

    def _begin(self, planned: PlannedStage, folder: StageFolder) -> dict[str, Any]:
        before = folder.manifest
        attempt = before["attempt"] + 1 if before else 0
        manifest = {
            "schema": SCHEMA,
            "stage": planned.name,
            "kind": planned.kind,
            "identity": planned.identity,
            "state": "running",
            "attempt": attempt,
            "inputs": {need: self.plan[need].identity for need in planned.needs},
            "artifact": None,
            "started": before["started"] if before else time.time(),
            "ended": None,
            "seconds": before["seconds"] if before else 0.0,
            "seed": planned.seed,
            "steps": getattr(planned.stage, "steps", None),
            "step": None,
            "data": list(planned.data),
            "versions": versions(),
            "git": git_state(),
            "machine": machine(),
            "command": " ".join(sys.argv),
            "metrics": {},
            "error": None,
        }
        folder.write_manifest(manifest)
        (folder.path / "config.yaml").write_text(
            yaml.safe_dump(planned.config(), sort_keys=False, allow_unicode=True)
        )
        manifest["_began"] = time.time()
        self._event("stage-started", planned.name, attempt=attempt)
        return manifest

    def _end(
        self,
        planned: PlannedStage,
        folder: StageFolder,
        manifest: dict[str, Any],
        error: PosttrainError | None,
    ) -> None:
        began = manifest.pop("_began")
        state = "done"
        if error is not None:
            state = "stopped" if isinstance(error, Interrupted) else "failed"
            manifest["error"] = {
                key: value
                for key, value in asdict(error.problem()).items()
                if key in ("code", "message", "help")
            } | {"place": error.place}
        manifest |= {
            "state": state,
            "ended": time.time(),
            "seconds": manifest["seconds"] + time.time() - began,
        }
        metrics = self.launcher.close_stage(planned.name, {"state": state})
        manifest["metrics"] = metrics
        manifest["step"] = metrics.get("axis/step")
        if state == "done":
            artifact = folder.artifact(planned.stage.produces)  # type: ignore[arg-type]
            name = Path(artifact.path).name
            manifest["artifact"] = {"type": artifact.type, "path": name}
            if planned.stage.produces == "measurements":
                document = read_json(folder.path / "measurements.json") or {}
                manifest["metrics"] = {"models": document.get("models", {})}
        folder.write_manifest(manifest)
        self._event(f"stage-{state}", planned.name, seconds=manifest["seconds"])

    # -- suites and gates -----------------------------------------------------------------------

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
                self._artifact(planned.name).path, name, self.plan.suites[name], fingerprint
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
            if result.verdict == "fail":
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


def _resources(planned: PlannedStage) -> dict[str, int]:
    """What a stage occupies: trainer stages take turns, engines are counted."""
    if planned.kept:
        return {}
    stage = planned.stage
    if isinstance(stage, SftStage):
        return {"trainers": 1}
    if isinstance(stage, OnlineRlStage):
        return {"trainers": 1, "engines": stage.resources.engines or 10**9}
    if isinstance(stage, EvaluateStage):
        return {"engines": 1}
    return {}
