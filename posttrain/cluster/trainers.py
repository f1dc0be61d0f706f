"""Groups of trainers, as the launcher sees them: one actor runs those of all stages."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import ray
from ray import PlacementGroupID
from ray.exceptions import RayActorError, RayError
from ray.util.placement_group import (
    PlacementGroup,
    placement_group_table,
    remove_placement_group,
)

from posttrain.cluster import calls

TRAINER_GROUP = "posttrain.cluster.trainer_group"  # imports Ray Train, seconds
MOST_STAGES = 64  # that train at a time
RESTARTS = 3  # of one stage's groups, after the actor died that ran them
LOOK_EVERY_S = 5.0
STOP_FILE = "stop.request"  # in the stage's folder: a trainer that sees it saves and ends
PLACES_FILE = ".placement_groups"  # in the stage's folder, while its trainers run


@dataclass(frozen=True, slots=True)
class TrainerGroup:
    """`num_workers` processes of `gpus` GPUs each, which run `worker(config)`."""

    worker: Callable[[dict[str, Any]], None]
    config: dict[str, Any]
    num_workers: int
    gpus: int
    directory: Path  # of the stage
    together: bool  # they train one model, as ranks of one process group


class TrainerGroups:
    """Actor: Ray Train's controllers, each in a thread. In a process of its own every stage's would
    import Ray Train anew, four seconds of processor time.
    """

    def __init__(self) -> None:
        import_module(TRAINER_GROUP)

    def fit(self, group: TrainerGroup) -> None:
        """See posttrain.cluster.trainer_group.fit."""
        from posttrain.cluster.trainer_group import fit

        fit(group)


class Trainers:
    """The actor of one run, started when it is wanted and again where it died: its trainers die
    with it, and others go on from their last checkpoint. Thread-safe.

    `options` are Ray's for the actor. Ray is not to restart it: then it lets the old trainers keep
    their places for ever.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self._actor: Any = None
        self._lock = threading.Lock()

    def expect(self) -> None:
        """Start the actor beside what comes before the first training: it takes seconds."""
        self._alive()

    def fit(self, group: TrainerGroup, when_stuck: Callable[[], None] = lambda: None) -> None:
        """Run it and wait for its end, however long it takes; `when_stuck` is called again and
        again while there is no room for it.

        See posttrain.cluster.trainer_group.fit. Raises StageFailed, ProcessDied.
        """
        places = group.directory / PLACES_FILE
        places.unlink(missing_ok=True)  # of another cluster
        for left in reversed(range(1 + RESTARTS)):
            actor = self._alive()
            try:
                work = actor.fit.remote(group)
                _watch(work, places, when_stuck)
                ray.get(work)
                places.unlink(missing_ok=True)
                return
            except RayError as error:
                if not left or not isinstance(error, RayActorError):
                    raise calls.ours(error, "the trainers") from error
                self._bury(actor)
                _free(places)

    def _alive(self) -> Any:
        with self._lock:
            if self._actor is None:
                self._actor = (
                    ray.remote(TrainerGroups)
                    .options(num_cpus=0, max_concurrency=MOST_STAGES, **self._options)
                    .remote()
                )
            return self._actor

    def _bury(self, actor: Any) -> None:
        with self._lock:
            ray.kill(actor)  # one that was only out of reach, too
            if self._actor is actor:
                self._actor = None


def note_place(directory: Path, placement_group: str) -> None:
    """Called by the actor; `placement_group` is its number in hexadecimal digits."""
    with (directory / PLACES_FILE).open("a") as file:
        file.write(f"{placement_group}\n")


def _watch(work: Any, places: Path, when_stuck: Callable[[], None]) -> None:
    """Until it ends. Stuck is what was without a place at two looks, one after the other."""
    before: str | None = None
    while not ray.wait([work], timeout=LOOK_EVERY_S)[0]:
        numbers = places.read_text().split() if places.exists() else []
        now = next((each for each in numbers[-1:] if _has_no_place(each)), None)
        if now is not None and now == before:
            when_stuck()
        before = now


def _has_no_place(number: str) -> bool:
    group = PlacementGroup(PlacementGroupID(bytes.fromhex(number)))
    return placement_group_table(group).get("state") in ("PENDING", "RESCHEDULING")


def _free(places: Path) -> None:
    """Places that a dead actor's trainers had. Ray frees them too, but for those that it is just
    moving off a dead node: nobody could ever have them again.
    """
    if places.exists():
        for number in places.read_text().split():
            remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(number))))
        places.unlink()
