"""A group of trainers, ranks of one process group or not, as one run of Ray Train."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from ray.train import Result, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2.api.config import FailureConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError

from posttrain.cluster.trainers import STOP_FILE, TrainerGroup, note_place
from posttrain.errors import StageFailed
from posttrain.pipeline.arithmetic import count
from posttrain.ports import Tracker

TRAINER_RESTARTS = 3  # of one stage, after a rank's process died
ROOM_TRIES = 40  # of half a minute each: a cluster may start a node, or others use it
UNWANTED = (DatasetsCallback, PlacementGroupCleanerCallback)


def fit(group: TrainerGroup) -> None:
    """Run it and wait for all its processes.

    One that dies is started again, all of its group with it. Raises StageFailed where they die too
    often, or find no room; returns where a stop is asked for meanwhile. Errors of the worker's own
    are for it to leave in the stage's folder.
    """
    trainer = _SmallGroup(
        group,
        group.worker,
        train_loop_config=group.config,
        scaling_config=ScalingConfig(
            num_workers=group.num_workers,
            use_gpu=group.gpus > 0,
            resources_per_worker={"CPU": 1, **({"GPU": group.gpus} if group.gpus else {})},
        ),
        run_config=RunConfig(
            name="ray_train",
            storage_path=str(group.directory),
            failure_config=FailureConfig(
                max_failures=TRAINER_RESTARTS, controller_failure_limit=ROOM_TRIES
            ),
        ),
        backend_config=TorchConfig(backend="nccl" if group.gpus else "gloo")
        if group.together
        else None,
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        if _is_no_room(error):
            if (group.directory / STOP_FILE).exists():
                return
            raise StageFailed(
                f"waited {ROOM_TRIES // 2} min for room for {_wanted(group)}",
                help="`ray status` says who has it; posttrain resume goes on from the last "
                "checkpoint",
            ) from error
        last_line = str(error).strip().splitlines()[-1]
        raise StageFailed(
            f"the trainer's process died more than {TRAINER_RESTARTS} times: {last_line}",
            help="its log is in the run folder's logs/; posttrain resume goes on from the last "
            "checkpoint",
        ) from error


class _SmallGroup(DataParallelTrainer):
    """Run by the process that calls it, an actor, and without three processes that every group of
    trainers would wait for, two to four seconds each: the one that hands out Ray Data sets, of
    which there are none here, the one that frees a dead controller's places, which the launcher
    does, and the one that asks for more nodes, which Ray does for a group that finds no place.
    """

    def __init__(self, group: TrainerGroup, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._group = group

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [each for each in callbacks if not isinstance(each, UNWANTED)]

    def _initialize_and_run_controller(self, **parts: Any) -> Result:
        parts["scaling_policy"] = _FixedSize(parts["scaling_policy"].scaling_config)
        parts["failure_policy"] = _Patient(parts["failure_policy"].failure_config, self._group)
        controller = _Controller(**parts)
        asyncio.run(controller.run())
        return controller.get_result()


class _NotedPlaces(WorkerGroup):
    """Written down: whoever finds this process dead frees them, if Ray has not."""

    def _create_placement_group(self, *args: Any) -> Any:
        handle = super()._create_placement_group(*args)
        folder = Path(str(self._train_run_context.run_config.storage_path))
        note_place(folder, handle.placement_group.id.hex())
        return handle


class _Controller(TrainController):
    worker_group_cls = _NotedPlaces


class _FixedSize(FixedScalingPolicy):
    """Always as many workers as were asked for."""

    def after_controller_start(self, train_run_context: Any) -> None:
        pass  # no process is asked for nodes

    def _maybe_send_resource_request(self) -> None:
        pass


class _Patient(DefaultFailurePolicy):
    """Waits longer for room than for a process that comes up, and says so."""

    def __init__(self, settings: FailureConfig, group: TrainerGroup) -> None:
        super().__init__(settings)
        self._group = group
        self._deaths = 0  # before a group was whole

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        if _is_no_room(training_failed_error):
            tracker: Tracker = self._group.config["tracker"]
            tracker.event("waiting", text=f"room for {_wanted(self._group)}")
            if (self._group.directory / STOP_FILE).exists():
                return FailureDecision.RAISE
        elif isinstance(training_failed_error, ControllerError):
            self._deaths += 1
            if self._deaths > TRAINER_RESTARTS:
                return FailureDecision.RAISE
        return super().make_decision(training_failed_error)


def _is_no_room(error: TrainingFailedError) -> bool:
    return isinstance(error, ControllerError) and isinstance(
        error.controller_failure, WorkerGroupStartupTimeoutError
    )


def _wanted(group: TrainerGroup) -> str:
    each = count(group.gpus, "GPU") if group.gpus else "1 CPU slot"
    return f"{count(group.num_workers, 'trainer')} of {each}"
