"""Carries out a checked pipeline: the part that `run` and `resume` share.

Order of things: check everything that can be checked without a process, take the run folder's lock,
plan, check the disk; only then start Ray, check what needs a tokenizer or a reward, and run. Until
the first stage starts, every mistake is exit code 2 and nothing was written but the lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from posttrain.cli.heard import unheard_is_fine
from posttrain.cli.interrupts import Interrupts
from posttrain.cli.run_record import RunRecord
from posttrain.cli.screen import Screen
from posttrain.config.load import LoadedPipeline
from posttrain.errors import GateFailed, InputError, Interrupted, PosttrainError, Problem
from posttrain.pipeline.check import check
from posttrain.pipeline.disk import check_disk, needed_bytes
from posttrain.pipeline.plan import RunPlan, make_plan
from posttrain.pipeline.results import is_complete, recommended
from posttrain.pipeline.room import Room, does_not_fit, held
from posttrain.pipeline.store import RunFolder
from posttrain.track.report.build import write_report

if TYPE_CHECKING:
    from posttrain.pipeline.runner import Runner

STATES = {GateFailed: "gate", Interrupted: "stopped"}


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
    wait_for_cluster_s: float = 0.0  # for nodes that are on their way


@dataclass(slots=True)
class Execution:
    """One run, from the check to the last line on the screen."""

    loaded: LoadedPipeline
    options: RunOptions
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
                self._carry_out_locked(plan, RunRecord(folder), screen)

    def _carry_out_locked(self, plan: RunPlan, record: RunRecord, screen: Screen) -> None:
        record.begin(plan, self.options)
        screen.start()
        try:
            with Interrupts(screen) as interrupts:
                chosen = self._run_plan(plan, record, screen, interrupts)
        except PosttrainError as error:
            if isinstance(error, InputError) and not self.stages_began:
                record.take_back()  # found before the first stage: the folder is as it was
                raise
            record.end(STATES.get(type(error), "failed"), error=error)
            _finish(record.folder, screen)
            error.is_shown = True
            raise
        except BaseException:  # a bug of ours: the folder must not say "running"
            record.end("failed")
            raise
        else:
            record.end("done", chosen)
            _finish(record.folder, screen)

    def _run_plan(
        self, plan: RunPlan, record: RunRecord, screen: Screen, interrupts: Interrupts
    ) -> str | None:
        """Start what is needed, run, take everything down. Returns the recommended stage."""
        from posttrain.cluster.environment import prepare_ray

        prepare_ray(self.options.address)  # before the first import of ray
        from posttrain.cluster.launcher import RayLauncher
        from posttrain.cluster.room import room_now
        from posttrain.cluster.session import ClusterSession
        from posttrain.pipeline.runner import Runner

        folder = record.folder
        if is_complete(plan, folder):
            return recommended(plan, folder)
        cluster, address = plan.loaded.cluster, self.options.address
        screen.say(f"starting Ray: {address or 'on this machine'}")
        session = ClusterSession(cluster, address, folder.path / "logs")
        interrupts.session = session
        with session:
            self._require_cluster(plan, folder, screen, interrupts)
            wandb_settings = plan.loaded.pipeline.wandb.model_dump()
            launcher = RayLauncher(session, folder.path.resolve(), wandb_settings)
            if plan.to_train:
                launcher.expect_training()
            runner = Runner(
                plan,
                folder,
                record.run_id,
                launcher,
                session.num_cores,
                room_now(),
                screen.tick,
                gates_stop=not self.options.smoke,
            )
            try:
                interrupts.hand_to(runner)
                return self._run_stages(runner, screen)
            finally:
                launcher.close()

    def _require_cluster(
        self, plan: RunPlan, folder: RunFolder, screen: Screen, interrupts: Interrupts
    ) -> None:
        """Room for every stage, and a run folder that all nodes see."""
        from posttrain.cluster.nodes import require_shared_folder
        from posttrain.cluster.room import require_room

        loaded, address = plan.loaded, self.options.address
        wanted = {s.name: held(s.stage, loaded.cluster, loaded.base_dir) for s in plan.to_do}

        def missing(nodes: Sequence[Room]) -> list[Problem]:
            interrupts.check()
            return does_not_fit(wanted, nodes, not address, loaded.places)

        require_room(
            missing,
            wanted.values(),
            self.options.wait_for_cluster_s,
            screen.say,
        )
        if address:
            require_shared_folder(folder.path.resolve())

    def _run_stages(self, runner: Runner, screen: Screen) -> str | None:
        from posttrain.pipeline.preflight import preflight_requests
        from posttrain.stages.preflight import preflight_problems

        screen.say("checking rows, templates and rewards of all stages")
        preflight_problems(preflight_requests(runner.plan), runner.launcher).raise_if_any()
        self.stages_began = True
        return runner.run()


def _finish(folder: RunFolder, screen: Screen) -> None:
    write_report_quietly(folder, screen)
    screen.show_end()


def write_report_quietly(folder: RunFolder, screen: Screen) -> None:
    """The report must never turn a finished run into a failed one."""
    try:
        write_report(folder.path, folder.path / "report.html")
    except Exception as error:  # whatever plotly or a half-written file makes of it
        screen.say(f"the report could not be written: {error!r}; try posttrain report")
