"""Whether the cluster's settings go together, and can be used."""

from __future__ import annotations

from posttrain.config.document import Places
from posttrain.config.load import LoadedPipeline
from posttrain.config.pipeline import OnlineRlStage
from posttrain.errors import Problem


def check_cluster(loaded: LoadedPipeline, places: Places) -> list[Problem]:
    """What no stage could compute with."""
    return [*_spread_trainer(loaded, places), *_nccl_without_gpus(loaded, places)]


def _spread_trainer(loaded: LoadedPipeline, places: Places) -> list[Problem]:
    """A trainer is one process, and computes on one GPU: the others would lie idle."""
    gpus = loaded.cluster.gpus_per_trainer
    if gpus < 2:
        return []
    file, line = places.of("cluster.gpus_per_trainer")
    trainers = gpus * loaded.cluster.trainers
    return [
        Problem(
            "gpus-per-trainer",
            f"a trainer computes on one GPU, and is given {gpus}",
            "cluster.gpus_per_trainer",
            file,
            line,
            f"gpus_per_trainer: 1, trainers: {trainers}; they share the batch, and in online "
            "stages the model",
        )
    ]


def _nccl_without_gpus(loaded: LoadedPipeline, places: Places) -> list[Problem]:
    """Weights cannot travel from GPU to GPU where a side has none."""
    cluster = loaded.cluster
    trains_online = any(isinstance(s, OnlineRlStage) for s in loaded.draft.stages.values())
    if cluster.weight_sync != "nccl" or not trains_online:
        return []
    sides = {"engines": cluster.gpus_per_engine, "trainers": cluster.gpus_per_trainer}
    without = " and ".join(side for side, gpus in sides.items() if gpus == 0)
    if not without:
        return []
    keys = [f"gpus_per_{side[:-1]}: 1" for side, gpus in sides.items() if gpus == 0]
    file, line = places.of("cluster.weight_sync")
    return [
        Problem(
            "nccl-without-gpus",
            f"nccl sends weights from GPU to GPU, and the {without} have none",
            "cluster.weight_sync",
            file,
            line,
            f"shm on one host; with GPUs also {', '.join(keys)}",
        )
    ]
