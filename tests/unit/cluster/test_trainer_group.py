"""How long a group of trainers is tried for, by what kept it from starting; without Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.train.v2._internal.exceptions import (
    RayTrainError,
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
)
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2.api.config import FailureConfig
from ray.train.v2.api.exceptions import ControllerError

from posttrain.cluster import trainer_group
from posttrain.cluster.environment import SETTINGS
from posttrain.cluster.trainer_group import ROOM_TRIES, TRAINER_RESTARTS, _Patient, fit
from posttrain.cluster.trainers import STOP_FILE, TrainerGroup
from posttrain.errors import StageFailed

NO_ROOM = WorkerGroupStartupTimeoutError(2)
DEAD = WorkerGroupStartupFailedError("a worker died while it started")


class Told:
    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def event(self, name: str, text: str) -> None:
        self.events.append((name, text))


@pytest.fixture
def group(tmp_path: Path) -> TrainerGroup:
    return TrainerGroup(print, {"tracker": Told()}, 2, 4, tmp_path, together=True)


def decisions(group: TrainerGroup, failures: list[RayTrainError]) -> list[bool]:
    """Whether it is tried again after each."""
    policy = _Patient(FailureConfig(controller_failure_limit=ROOM_TRIES), group)
    found = [policy.make_decision(ControllerError(failure)) for failure in failures]
    return [decision is FailureDecision.RETRY for decision in found]


def failing_with(failure: RayTrainError) -> Callable[[Any], None]:
    def fit(_: Any) -> None:
        raise ControllerError(failure)

    return fit


def test_room_is_waited_for_twenty_minutes_and_told_each_time(group: TrainerGroup) -> None:
    assert float(SETTINGS["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"]) * 40 == 20 * 60
    assert decisions(group, [NO_ROOM] * 41) == [True] * 40 + [False]
    assert group.config["tracker"].events == [("waiting", "room for 2 trainers of 4 GPUs")] * 41


def test_a_stop_ends_the_wait_for_room_and_is_no_failure(
    group: TrainerGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    (group.directory / STOP_FILE).touch()
    assert decisions(group, [NO_ROOM]) == [False]
    monkeypatch.setattr(trainer_group._SmallGroup, "fit", failing_with(NO_ROOM))
    fit(group)


def test_processes_that_die_while_they_start_are_tried_no_more_than_those_that_die_later(
    group: TrainerGroup,
) -> None:
    tries = [DEAD] * TRAINER_RESTARTS + [NO_ROOM, DEAD]
    assert decisions(group, tries) == [True] * TRAINER_RESTARTS + [True, False]


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (NO_ROOM, "waited 20 min for room for 2 trainers of 4 GPUs"),
        (DEAD, "the trainer's process died more than 3 times: a worker died while it started"),
    ],
)
def test_the_end_of_it_says_why(
    group: TrainerGroup, monkeypatch: pytest.MonkeyPatch, failure: RayTrainError, message: str
) -> None:
    monkeypatch.setattr(trainer_group._SmallGroup, "fit", failing_with(failure))
    with pytest.raises(StageFailed) as found:
        fit(group)
    assert found.value.message == message
