"""Runs one stage of a plan: its folder, its manifest, its processes, its artifact."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml

from posttrain.config.answers import BestOfNStage, GenerateStage, OverOptimisationStage
from posttrain.config.average import AverageStage
from posttrain.config.keys import WITH_DATA
from posttrain.config.offline import PreferenceStage, RewardModelStage, SftStage
from posttrain.config.pipeline import Cluster, EvaluateStage, ModelStage, OnlineRlStage
from posttrain.config.stage_base import StageBase
from posttrain.config.tasks import asked_suite
from posttrain.errors import InputError, Interrupted, PosttrainError, StageFailed
from posttrain.files import write_json, write_text
from posttrain.pipeline.plan import PlannedStage, RunPlan
from posttrain.pipeline.provenance import git_state, machine, versions
from posttrain.pipeline.removable import CHECKPOINTS, ONLY_UNTIL_DONE
from posttrain.pipeline.store import RunFolder, StageFolder, read_json
from posttrain.stages import (
    average,
    average_greedy,
    average_sweep,
    best_of_n,
    evaluate,
    generate,
    model,
    online_rl,
    over_optimisation,
    preference,
    reward_model,
    sft,
)
from posttrain.stages.context import StageContext
from posttrain.stages.dataset import ROWS_FILE
from posttrain.stages.launcher import Launcher
from posttrain.stages.measure import Evaluator
from posttrain.stages.meter import SuiteMeter
from posttrain.types import Artifact

SCHEMA = 1


class StageLauncher(Launcher, Protocol):
    """A launcher that also keeps each stage's records."""

    def open_stage(self, **stage: Any) -> Any: ...

    def close_stage(self, stage: str, summary: Mapping[str, Any]) -> dict[str, float]: ...

    def request_stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class StageRunner:
    """Runs stages one by one or side by side; holds what they share."""

    plan: RunPlan
    folder: RunFolder
    run_id: str
    launcher: StageLauncher
    evaluator: Evaluator
    num_cores: int
    event: Callable[..., None]  # (name, stage, **details)
    stop_asked: Callable[[], bool]

    def run(self, planned: PlannedStage) -> None:
        """Run a stage that is not done. Raises what it failed with; its manifest says so too."""
        folder = self.folder.stage(planned.name, planned.identity)
        if folder.is_done:
            return
        if self.stop_asked():
            raise Interrupted(f"{planned.name} was not started")
        manifest = self._begin(planned, folder)
        context = self._context(planned, folder, manifest["attempt"])
        try:
            outcome = self._dispatch(planned, context)
            if outcome == "stopped":
                raise Interrupted(f"{planned.name} was stopped and saved")
        except InputError as error:  # found while it ran: the stage failed, earlier ones are kept
            failure = StageFailed(error.message, place=error.problems[0].place, help=error.help)
            failure.code = error.problems[0].code
            self._end(planned, folder, manifest, failure)
            raise failure from error
        except PosttrainError as error:
            self._end(planned, folder, manifest, error)
            raise
        except Exception as error:  # a bug of ours: recorded in the manifest like any other failure
            self._end(planned, folder, manifest, StageFailed(f"{type(error).__name__}: {error}"))
            raise
        self._end(planned, folder, manifest, None)

    def _dispatch(self, planned: PlannedStage, context: StageContext) -> str:
        stage = _with_files(planned.stage, context.inputs)
        plugins = planned.plugins
        if isinstance(stage, ModelStage):
            outcome = model.run(stage, context)
            self._prewarm(context)
            return outcome
        if isinstance(stage, SftStage):
            return sft.run(stage, plugins["algorithm"], context)
        if isinstance(stage, RewardModelStage):
            return reward_model.run(stage, plugins["algorithm"], context)
        if isinstance(stage, PreferenceStage):
            return preference.run(stage, plugins["algorithm"], context)
        if isinstance(stage, OnlineRlStage):
            return online_rl.run(
                stage, plugins["algorithm"], plugins["reward"], plugins.get("watch"), context
            )
        if isinstance(stage, GenerateStage):
            return generate.run(stage, plugins.get("scored_by"), plugins["select"], context)
        if isinstance(stage, BestOfNStage):
            result = best_of_n.run(stage, plugins["scored_by"], plugins["gold"], context)
            write_json(context.directory / "measurements.json", result)
            return "done"
        if isinstance(stage, OverOptimisationStage):
            result = over_optimisation.run(stage, plugins["gold"], context)
            write_json(context.directory / "measurements.json", result)
            return "done"
        if isinstance(stage, AverageStage):
            if stage.asks:
                use = asked_suite(stage, self.plan.suites)
                assert use is not None and planned.suite is not None
                fingerprint = planned.suite_fingerprint
                meter = SuiteMeter(use.use, planned.suite, fingerprint, self.evaluator)
                if stage.greedy:
                    return average_greedy.run(stage, plugins["method"], meter, context)
                outcome, front = average_sweep.run(stage, plugins["method"], meter, context)
                write_json(context.directory / average_sweep.FRONT, front)
                return outcome
            return average.run(stage, plugins["method"], context)
        if isinstance(stage, EvaluateStage):
            assert planned.suite is not None
            result = evaluate.run(
                stage,
                planned.suite,
                planned.suite_fingerprint,
                context.inputs,
                self.evaluator,
                context.tracker,
            )
            write_json(context.directory / "measurements.json", result)
            return "done"
        raise StageFailed(f"no way to run a stage of kind {type(stage).__name__}")

    def _prewarm(self, context: StageContext) -> None:
        """The first engine starts beside the first training: its weights are swapped in later."""
        for suite in self.plan.suites.values():
            if self.plan.loaded.cluster.gpus_per_engine:
                return  # an idle engine would hold the GPU that the trainer needs
            spec = self.evaluator.engine_for(str(context.directory / "model"), suite)
            self.launcher.prewarm(spec, 1)

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
            inputs={need: self.artifact(need) for need in planned.needs},
            launcher=self.launcher,
            tracker=tracker,
            cluster=self.plan.loaded.cluster,
            num_cores=self.num_cores,
            seed=planned.seed,
            attempt=attempt,
        )

    def artifact(self, name: str) -> Artifact:
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
            "steps": _num_steps(planned.stage, self.plan.loaded.cluster),
            "data": list(planned.data),
            "versions": versions(),
            "git": git_state(),
            "machine": machine(),
            "command": " ".join(sys.argv),
            "metrics": {},
            "error": None,
        }
        folder.write_manifest(manifest)
        write_text(
            folder.path / "config.yaml",
            yaml.safe_dump(planned.config(), sort_keys=False, allow_unicode=True),
        )
        manifest["_began"] = time.time()
        self.event("stage-started", planned.name, attempt=attempt)
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
        try:
            metrics = self.launcher.close_stage(planned.name, {"state": state})
        except PosttrainError as trouble:  # a dead tracker must not undo a finished stage
            self.event("tracker-lost", planned.name, message=trouble.message)
            metrics = {}
        manifest["metrics"] = metrics
        if state == "done":
            artifact = folder.artifact(planned.stage.produces)  # type: ignore[arg-type]
            name = Path(artifact.path).name
            manifest["artifact"] = {"type": artifact.type, "path": name}
            if planned.stage.produces == "measurements":
                document = read_json(folder.path / "measurements.json") or {}
                if "models" in document:
                    manifest["metrics"] = {"models": document["models"]}
        folder.write_manifest(manifest)
        if state == "done":
            _remove(folder.path, (CHECKPOINTS, *ONLY_UNTIL_DONE))
        self.event(f"stage-{state}", planned.name, seconds=manifest["seconds"])


def _remove(folder: Path, names: Iterable[str]) -> None:
    """Files and folders, where they are there. A link stays: it was put there by hand."""
    for name in names:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name, ignore_errors=True)
        else:
            with suppress(OSError):
                (folder / name).unlink()


def _with_files(stage: StageBase, inputs: Mapping[str, Artifact]) -> StageBase:
    """The stage; its data knows the files of the stages whose rows it reads."""
    if not isinstance(stage, WITH_DATA):
        return stage
    named = {part.stage for part in stage.data.parts.values() if part.stage is not None}
    files = {name: str(Path(inputs[name].path) / ROWS_FILE) for name in named}
    return stage.model_copy(update={"data": stage.data.model_copy(update={"files": files})})


def _num_steps(stage: StageBase, cluster: Cluster) -> int | None:
    """Optimiser steps that the stage will count, where its file says so: of an ensemble those of
    the first trainer's members.
    """
    steps: int | None = getattr(stage, "steps", None)
    if steps and isinstance(stage, RewardModelStage):
        return steps * -(-stage.members // cluster.trainers_for(stage))
    return steps
