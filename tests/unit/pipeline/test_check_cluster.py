"""Cluster settings that do not go together are refused before anything starts."""

from __future__ import annotations

from collections.abc import Callable

from posttrain.config.load import load_pipeline
from posttrain.pipeline.check import check

Write = Callable[..., str]


def rendered(file: str, *overrides: str) -> list[str]:
    return [problem.render() for problem in check(load_pipeline(file, overrides)).problems]


def test_a_trainer_has_one_gpu(write_pipeline: Write) -> None:
    overrides = ("cluster.gpus_per_trainer=4", "cluster.trainers=2")
    assert rendered(write_pipeline(), *overrides) == [
        "error[gpus-per-trainer] command line cluster.gpus_per_trainer: a trainer computes on one "
        "GPU, and is given 4\n"
        "  help: gpus_per_trainer: 1, trainers: 8; they share the batch, and in online stages the "
        "model"
    ]


def test_nccl_needs_gpus_on_both_sides(write_pipeline: Write) -> None:
    file = write_pipeline()
    assert rendered(file, "cluster.weight_sync=nccl") == [
        "error[nccl-without-gpus] command line cluster.weight_sync: nccl sends weights from GPU to "
        "GPU, and the engines and trainers have none\n"
        "  help: shm on one host; with GPUs also gpus_per_engine: 1, gpus_per_trainer: 1"
    ]
    assert rendered(file, "cluster.weight_sync=nccl", "cluster.gpus_per_engine=1") == [
        "error[nccl-without-gpus] command line cluster.weight_sync: nccl sends weights from GPU to "
        "GPU, and the trainers have none\n"
        "  help: shm on one host; with GPUs also gpus_per_trainer: 1"
    ]
    both = ("cluster.gpus_per_engine=1", "cluster.gpus_per_trainer=1")
    assert rendered(file, "cluster.weight_sync=nccl", *both) == []
    assert rendered(file, "cluster.weight_sync=shm") == []
