"""The actor that runs every group of trainers of a run."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

TRAINER_GROUP = "posttrain.cluster.trainer_group"  # imports Ray Train, seconds


class TrainerGroups:
    """Ray Train's controllers, each in a thread: in a process of its own every stage's would import
    Ray Train anew, four seconds of processor time, and where it died nobody would start another.
    This one Ray starts again, and asks it again for what it was asked: trainers go on from their
    last checkpoint.
    """

    def __init__(self) -> None:
        import_module(TRAINER_GROUP)

    def fit(
        self,
        worker: Callable[[dict[str, Any]], None],
        config: dict[str, Any],
        num_workers: int,
        gpus: int,
        directory: Path,
        together: bool,
    ) -> None:
        """See posttrain.cluster.trainer_group.fit."""
        from posttrain.cluster.trainer_group import fit

        fit(worker, config, num_workers, gpus, directory, together)
