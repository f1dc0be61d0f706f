"""A group of trainers, ranks of one process group or not, as one run of Ray Train."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from ray.train import Result, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2.api.config import FailureConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from posttrain.cluster.trainers import TrainerGroup, note_place
from posttrain.errors import StageFailed

TRAINER_RESTARTS = 3  # of one stage, after a rank's process died
UNWANTED = (DatasetsCallback, PlacementGroupCleanerCallback)


def fit(group: TrainerGroup) -> None:
    """Run it and wait for all its processes.

    One that dies is started again, all of its group with it. Raises StageFailed where they die too
    often; errors of the worker's own are for it to leave in the stage's folder.
    """
    trainer = _SmallGroup(
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
                max_failures=TRAINER_RESTARTS, controller_failure_limit=TRAINER_RESTARTS
            ),
        ),
        backend_config=TorchConfig(backend="nccl" if group.gpus else "gloo")
        if group.together
        else None,
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
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

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [each for each in callbacks if not isinstance(each, UNWANTED)]

    def _initialize_and_run_controller(self, **parts: Any) -> Result:
        parts["scaling_policy"] = _FixedSize(parts["scaling_policy"].scaling_config)
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
