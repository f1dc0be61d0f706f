"""The launcher: runs the stages' jobs as Ray actors, tasks and Ray Train groups."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from posttrain.cluster import calls
from posttrain.cluster.actors import CoordinatorActor, RewardActor, TrackerActor, packed
from posttrain.cluster.crew import EngineCrew
from posttrain.cluster.engines import EnginePool, Lease
from posttrain.cluster.handles import (
    CoordinatorHandle,
    EngineHandle,
    RewardHandle,
    ScorerHandle,
    TrackerHandle,
)
from posttrain.cluster.offline_stages import put_together
from posttrain.cluster.room import room_now
from posttrain.cluster.session import ClusterSession
from posttrain.cluster.train_workers import (
    FAILURE_FILE,
    offline_worker,
    online_worker,
    raise_failure,
    trainer_starts,
)
from posttrain.cluster.trainers import STOP_FILE, TrainerGroup, Trainers
from posttrain.errors import PosttrainError
from posttrain.pipeline.room import Room
from posttrain.ports import EngineSpec, Tracker
from posttrain.stages.jobs import JOURNALS, OfflineJob, OnlineJob, ScoringJob

COORDINATOR_RESTARTS = 3  # of one stage
# Of one stage. To limit how often a call is repeated would not do: while a node dies, Ray counts
# each time that it cannot reach it, three within a second.
REWARD_RESTARTS = 20
LONG_WAIT_S = 15.0  # of a call; then idle engines may stand in its way
MOST_CALLS = 4096  # calls that wait in the coordinator: one per engine, and the trainer's


class RayLauncher:
    """One per run. Thread-safe: independent stages use it side by side."""

    def __init__(
        self, session: ClusterSession, run_directory: Path, wandb_settings: Mapping[str, Any]
    ) -> None:
        self._session = session
        self._pool = EnginePool(room_now, self.stop_asked)
        self._tracker: Any = (
            ray.remote(TrackerActor)
            .options(num_cpus=0, max_restarts=-1, max_task_retries=-1)
            .remote(str(run_directory), dict(wandb_settings))
        )
        self._trainers = Trainers(session.beside_the_driver())
        self._lock = threading.Lock()
        self._running: dict[str, tuple[Path, Any | None]] = {}  # stage: folder, coordinator
        self._stop_asked = False

    def expect_training(self) -> None:
        """Start what runs the trainers beside what comes before them."""
        self._trainers.expect()

    # -- tracking -------------------------------------------------------------------------------

    def open_stage(self, **stage: Any) -> TrackerHandle:
        """Begin to write a stage's files (and its W&B run)."""
        calls.get(self._tracker.open.remote(stage), 120, "the tracker to open a stage")
        return TrackerHandle(self._tracker, stage["name"])

    def close_stage(self, stage: str, summary: Mapping[str, Any]) -> dict[str, float]:
        """Everything written; the last value of each metric."""
        reference = self._tracker.close_stage.remote(stage, dict(summary))
        return calls.get(reference, 120, "the tracker to close a stage")

    # -- running --------------------------------------------------------------------------------

    def call(
        self, function: Callable[..., Any], *args: Any, cpus: int = 1, deadline_s: float = 7200
    ) -> Any:
        with self._pool.room_for(Room(cpus, 0), brief=True):
            reference = ray.remote(function).options(num_cpus=cpus, max_retries=1).remote(*args)
            if cpus and not ray.wait([reference], timeout=LONG_WAIT_S)[0] and _all_in_use():
                self._pool.end_idle()  # it may be waiting for one
            return calls.get(reference, deadline_s, f"{function.__name__} to finish")

    @contextmanager
    def engines(self, spec: EngineSpec, count: int) -> Iterator[Sequence[EngineHandle]]:
        with self._pool.lease(spec, count) as lease:
            yield lease.handles

    @contextmanager
    def scorer(self, job: ScoringJob, tracker: Tracker) -> Iterator[ScorerHandle]:
        with self._rewards(job, tracker) as actor:
            yield ScorerHandle(actor)

    def prewarm(self, spec: EngineSpec, count: int) -> None:
        self._pool.prewarm(spec, count)

    def run_offline(self, job: OfflineJob, tracker: Tracker) -> str:
        directory = Path(job.directory)
        tracker.event("waiting", text="starting the trainer")
        with self._registered(job.stage, directory, None):
            self._fit(
                TrainerGroup(
                    offline_worker,
                    {"job": job, "directory": job.directory, "tracker": tracker},
                    job.num_trainers,
                    job.gpus_per_trainer,
                    directory,
                    together=job.kind != "reward_model",
                )
            )
        return self._outcome(directory, "reward_models" if job.kind == "reward_model" else "model")

    def put_together(self, job: OfflineJob, tracker: Tracker) -> None:
        self.call(put_together, job, tracker)

    def run_online(self, job: OnlineJob, tracker: Tracker) -> str:
        directory = Path(job.directory)
        tracker.event("waiting", text=f"starting {job.num_engines} engine(s) and the trainer")
        (directory / JOURNALS).mkdir(exist_ok=True)
        with (
            self._rewards(job.scoring, tracker) as rewards,
            self._pool.lease(job.engine, job.num_engines) as lease,
        ):
            self._train_online(job, lease, rewards, tracker)
        return self._outcome(directory)

    def _train_online(self, job: OnlineJob, lease: Lease, rewards: Any, tracker: Tracker) -> None:
        directory = Path(job.directory)
        # Once; large, and wanted by several processes, restarted ones too.
        prompts, heldout = ray.put(job.prompts), ray.put(job.heldout)
        bare = replace(job, prompts=(), heldout=())
        name = f"coordinator/{job.stage}"
        coordinator = (
            ray.remote(CoordinatorActor)
            .options(
                num_cpus=0,
                name=name,
                max_concurrency=MOST_CALLS,
                max_restarts=COORDINATOR_RESTARTS,
            )
            .remote(bare, packed(prompts, heldout, RewardHandle(rewards), tracker))
        )
        # A batch may have to wait for a group that is dropped at its deadline, and its successor.
        port = CoordinatorHandle(name, self._session.namespace, 2.5 * job.loop.group_deadline_s)
        config = {
            "job": bare,
            "prompts": prompts,
            "directory": job.directory,
            "tracker": tracker,
            "port": port,
            "starts_before": trainer_starts(directory),
            "engine_cores": lease.cores,
            "engine_places": lease.places,
        }
        crew = EngineCrew(lease, coordinator, str(directory / JOURNALS), tracker)
        try:
            with crew, self._registered(job.stage, directory, coordinator):
                self._fit(
                    TrainerGroup(
                        online_worker,
                        config,
                        job.num_trainers,
                        job.gpus_per_trainer,
                        directory,
                        together=True,
                    )
                )
        finally:
            self._end_coordinator(coordinator, crew)

    @contextmanager
    def _rewards(self, job: ScoringJob, tracker: Tracker) -> Iterator[Any]:
        """The actor that scores, for the block."""
        gpus = job.gpus + sum(spec.gpus for spec in job.judges.values())
        with self._pool.room_for(Room(0, gpus)):
            actor: Any = (
                ray.remote(RewardActor)
                .options(
                    num_cpus=0,
                    num_gpus=gpus,
                    max_restarts=REWARD_RESTARTS,
                    max_task_retries=-1,
                )
                .remote(job, packed(tracker))
            )
            try:
                yield actor
            finally:
                ray.kill(actor)

    def _end_coordinator(self, coordinator: Any, crew: EngineCrew) -> None:
        """Engines come back to the pool; one that does not makes the stage's lease unsound."""
        try:
            calls.get(coordinator.close.remote(), 10, "the coordinator to close")
            crew.wait_until_free()
        except PosttrainError:
            self._pool.distrust(crew.names)  # what it knew is in the ledger and the checkpoint
        finally:
            ray.kill(coordinator)

    def _fit(self, group: TrainerGroup) -> None:
        wanted = Room(group.num_workers, group.num_workers * group.gpus)
        (group.directory / FAILURE_FILE).unlink(missing_ok=True)  # a killed driver may have left it
        with self._pool.room_for(wanted):
            self._trainers.fit(group, self._pool.end_idle)
        raise_failure(group.directory)

    def _outcome(self, directory: Path, artifact: str = "model") -> str:
        stopped = directory / STOP_FILE
        if stopped.exists():
            stopped.unlink()
            if not (directory / artifact).exists():
                return "stopped"
        return "done"

    # -- ending ---------------------------------------------------------------------------------

    @contextmanager
    def _registered(self, stage: str, directory: Path, coordinator: Any | None) -> Iterator[None]:
        """Known to `request_stop` for as long as it runs."""
        with self._lock:
            self._running[stage] = (directory, coordinator)
            (directory / STOP_FILE).unlink(missing_ok=True)
        if self._stop_asked:
            self.request_stop()
        try:
            yield
        finally:
            with self._lock:
                del self._running[stage]

    def stop_asked(self) -> bool:
        return self._stop_asked

    def request_stop(self) -> None:
        """Ask every trainer to save what it has and end."""
        self._stop_asked = True
        with self._lock:
            for directory, coordinator in self._running.values():
                (directory / STOP_FILE).touch()
                if coordinator is not None:
                    coordinator.stop.remote()

    def close(self) -> None:
        """Flush the tracker, end the engines."""
        self._pool.close()
        try:
            calls.get(self._tracker.close.remote(), 60, "the tracker to close")
        except PosttrainError:
            pass  # every line was on disk when it was logged; only W&B may lack the last ones
        finally:
            ray.kill(self._tracker)


def _all_in_use() -> bool:
    return ray.available_resources().get("CPU", 0.0) < 1
