"""Carries out a checked pipeline: the part that `run` and `resume` share.

Order of things: check everything that can be checked without a process, take the run folder's lock,
plan, check the disk; only then start Ray, check what needs a tokenizer or a reward, and run. Until
the first stage starts, every mistake is exit code 2 and nothing was written but the lock.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from posttrain.cli.heard import unheard_is_fine
from posttrain.cli.screen import Screen
from posttrain.config.keys import TRAINED_KINDS
from posttrain.config.load import LoadedPipeline
from posttrain.config.pipeline import ModelStage
from posttrain.errors import GateFailed, InputError, Interrupted, PosttrainError
from posttrain.pipeline.check import check
from posttrain.pipeline.plan import PlannedStage, RunPlan, make_plan
from posttrain.pipeline.results import recommended, unmeasured
from posttrain.pipeline.store import RunFolder, check_disk
from posttrain.track.report.build import write_report
from posttrain.track.wandb import resolve_mode, without_secrets

if TYPE_CHECKING:
    from posttrain.cluster.session import ClusterSession
    from posttrain.pipeline.runner import Runner

STATES = {GateFailed: "gate", Interrupted: "stopped"}
SMALLEST_MODEL_BYTES = 4_000_000
CHECKPOINTED_COPIES = 10  # weights, two checkpoints of weights and two moments, in fp32
OWN_FILES = ("run.json", "pipeline.yaml")
MARGIN_BYTES = 500_000_000  # logs, rollouts, report


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the command line adds to a pipeline."""

    runs_dir: Path
    name: str | None = None
    address: str | None = None
    json: bool = False
    overrides: Sequence[str] = ()
    smoke: bool = False  # the pipeline was cut down to two steps of every stage
    measures: bool = False  # it is a measurement for `plan`


@dataclass(slots=True)
class Execution:
    """One run, from the check to the last line on the screen."""

    loaded: LoadedPipeline
    options: RunOptions
    run: dict[str, Any] = field(default_factory=dict)
    before: dict[str, str] = field(default_factory=dict)  # files that `_begin` wrote over
    stages_began: bool = False

    def carry_out(self) -> None:
        """Raises the PosttrainError that the run ended with; returns normally when all is done."""
        report = check(self.loaded)
        report.raise_if_any()
        pipeline = self.loaded.pipeline
        folder = RunFolder(self.options.runs_dir / (self.options.name or pipeline.name))
        with folder.locked():
            plan = make_plan(self.loaded, report.graph, folder)
            check_disk(folder.path, needed_bytes(plan))
            with (
                unheard_is_fine(),
                Screen(folder.path, as_json=self.options.json) as screen,
            ):
                self._carry_out_locked(plan, folder, screen)

    def _carry_out_locked(self, plan: RunPlan, folder: RunFolder, screen: Screen) -> None:
        self._begin(plan, folder)
        screen.start()
        try:
            chosen = self._run_plan(plan, folder, screen)
        except PosttrainError as error:
            if isinstance(error, InputError) and not self.stages_began:
                self._restore(folder)  # found before the first stage: the folder is as it was
                raise
            self._end(folder, STATES.get(type(error), "failed"), None, error)
            self._finish(folder, screen)
            error.is_shown = True
            raise
        except KeyboardInterrupt:  # while Ray was starting; `interruptible` handles later ones
            self._end(folder, "stopped", None, Interrupted("stopped before the first stage"))
            raise
        except BaseException:  # a bug of ours: the folder must not say "running"
            self._end(folder, "failed", None, None)
            raise
        else:
            self._end(folder, "done", chosen, None)
            self._finish(folder, screen)

    def _run_plan(self, plan: RunPlan, folder: RunFolder, screen: Screen) -> str | None:
        """Start what is needed, run, take everything down. Returns the recommended stage."""
        from posttrain.cluster.environment import prepare_ray

        prepare_ray(self.options.address)  # before the first import of ray
        from posttrain.cluster.launcher import RayLauncher
        from posttrain.cluster.nodes import require_shared_folder
        from posttrain.cluster.session import ClusterSession
        from posttrain.pipeline.preflight import preflight_requests
        from posttrain.pipeline.runner import Runner
        from posttrain.stages.preflight import preflight_problems

        if is_complete(plan, folder):
            return recommended(plan, folder)
        loaded, address = plan.loaded, self.options.address
        screen.say(f"starting Ray: {address or 'on this machine'}")
        with ClusterSession(loaded.cluster, address, folder.path / "logs") as session:
            wandb_settings = loaded.pipeline.wandb.model_dump()
            if address:
                require_shared_folder(folder.path.resolve())
            launcher = RayLauncher(session, folder.path.resolve(), wandb_settings)
            if trained_stages(plan):
                launcher.expect_training()
            runner = Runner(
                plan,
                folder,
                self.run["run_id"],
                launcher,
                session.num_cores,
                screen.tick,
                gates_stop=not self.options.smoke,
            )
            try:
                with interruptible(runner, session, screen):
                    screen.say("checking rows, templates and rewards of all stages")
                    preflight_problems(preflight_requests(plan), launcher).raise_if_any()
                    self.stages_began = True
                    return runner.run()
            finally:
                launcher.close()

    def _finish(self, folder: RunFolder, screen: Screen) -> None:
        write_report_quietly(folder, screen)
        screen.show_end()

    def _restore(self, folder: RunFolder) -> None:
        """Take back what `_begin` wrote: a run that never started leaves no trace."""
        for name in (*OWN_FILES, "events.jsonl", "live.html"):
            if name in self.before:
                (folder.path / name).write_text(self.before[name], encoding="utf-8")
            elif name in OWN_FILES or "run.json" not in self.before:
                (folder.path / name).unlink(missing_ok=True)
        if "run.json" not in self.before:
            (folder.path / "run.lock").unlink(missing_ok=True)
            with suppress(OSError):  # somebody keeps other things there
                folder.path.rmdir()

    def _begin(self, plan: RunPlan, folder: RunFolder) -> None:
        before = folder.read()
        self.before = {
            name: (folder.path / name).read_text(encoding="utf-8")
            for name in OWN_FILES
            if (folder.path / name).exists()
        }
        pipeline = plan.loaded.pipeline
        self.run = {
            "schema": 1,
            "name": folder.path.name,
            "run_id": before.get("run_id") or time.strftime("%Y%m%d-%H%M%S"),
            "file": str(plan.loaded.file),
            "overrides": list(self.options.overrides),
            "smoke": self.options.smoke,
            "measures": self.options.measures,
            "description": pipeline.description,
            "state": "running",
            "command": " ".join(sys.argv),
            "started": time.time(),
            "ended": None,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "wandb": resolve_mode(pipeline.wandb),
            "stages": [
                {
                    "name": stage.name,
                    "kind": stage.kind,
                    "identity": stage.identity,
                    "needs": list(stage.needs),
                    "why": stage.why,
                }
                for stage in plan.stages
            ],
            "suites": {name: suite.model_dump() for name, suite in plan.suites.items()},
            "recommended": None,
            "error": None,
        }
        folder.write(self.run)
        (folder.path / "pipeline.yaml").write_text(
            yaml.safe_dump(without_secrets(plan.loaded.raw), sort_keys=False, allow_unicode=True)
        )

    def _end(
        self,
        folder: RunFolder,
        state: str,
        recommended: str | None,
        error: PosttrainError | None,
    ) -> None:
        self.run |= {
            "state": state,
            "ended": time.time(),
            "recommended": recommended,
            "error": asdict(error.problem()) if error else None,
        }
        folder.write(self.run)


@contextmanager
def interruptible(runner: Runner, session: ClusterSession, screen: Screen) -> Iterator[None]:
    """Ctrl-C once: save and stop. Twice: stop now. What was finished is kept either way."""
    asked = 0

    def on_signal(number: int, frame: object) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            runner.ask_to_stop()  # sets a flag: the scheduler's thread does the rest
            screen.say(
                "^C stopping: nothing new is started, what runs is saved. "
                "Ctrl-C again: stop now, nothing finished is lost"
            )
            return
        screen.say("^C^C stopped. Go on: posttrain resume")
        screen.show_cursor()
        session.abandon()
        os._exit(Interrupted.exit_code)  # threads that wait for dead processes would never return

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def is_complete(plan: RunPlan, folder: RunFolder) -> bool:
    """Whether every stage is done and every model was asked: then no process needs to start."""
    return all(stage.kept for stage in plan.stages) and not unmeasured(plan, folder)


def trained_stages(plan: RunPlan) -> list[PlannedStage]:
    """Those that will be trained."""
    return [stage for stage in plan.stages if stage.kind in TRAINED_KINDS and not stage.kept]


def needed_bytes(plan: RunPlan) -> int:
    """A careful guess of what a run stores: models, and checkpoints of trained stages."""
    trained = trained_stages(plan)
    models = [
        Path(s.stage.path)
        for s in plan.stages
        if isinstance(s.stage, ModelStage) and s.stage.path is not None and not s.stage.tiny
    ]
    sizes = [sum(f.stat().st_size for f in m.glob("*.safetensors")) for m in models if m.is_dir()]
    largest = max([*sizes, SMALLEST_MODEL_BYTES])
    members = sum(getattr(s.stage, "members", 1) - 1 for s in trained)  # each a model more
    return MARGIN_BYTES + (len(trained) * CHECKPOINTED_COPIES + members) * largest


def write_report_quietly(folder: RunFolder, screen: Screen) -> None:
    """The report must never turn a finished run into a failed one."""
    try:
        write_report(folder.path, folder.path / "report.html")
    except Exception as error:  # whatever plotly or a half-written file makes of it
        screen.say(f"the report could not be written: {error!r}; try posttrain report")
