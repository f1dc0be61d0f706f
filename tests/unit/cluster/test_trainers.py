"""What follows the death of the actor that runs the trainers; without Ray."""

from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from posttrain.cluster import trainers
from posttrain.cluster.trainers import PLACES_FILE, RESTARTS, TrainerGroup, Trainers, note_place
from posttrain.errors import ProcessDied, StageFailed

NUMBERS = ["0a" * 18, "0b" * 18]


class Ray:
    """Actors whose calls end as `ends` says, one after another: an error, or None."""

    def __init__(self, ends, places=(), states=()):
        self.ends, self.places, self.states = list(ends), places, list(states)
        self.started, self.killed, self.freed = 0, [], []

    def remote(self, kind):
        return self

    def options(self, **options):
        return SimpleNamespace(remote=self._start)

    def _start(self):
        self.started += 1
        return SimpleNamespace(name=self.started, fit=SimpleNamespace(remote=self._fit))

    def _fit(self, group):
        for number in self.places:
            note_place(group.directory, number)

    def wait(self, references, timeout):
        """Done after as many looks as there are states left; each looks at one."""
        return ([], references) if self.states else (references, [])

    def table(self, place):
        return {"state": self.states.pop(0)}

    def get(self, reference):
        error = self.ends.pop(0)
        if error is not None:
            raise error

    def kill(self, actor):
        self.killed.append(actor.name)


@pytest.fixture
def fit(monkeypatch, tmp_path):
    def fit(ray, when_stuck=lambda: None):
        monkeypatch.setattr(trainers, "ray", ray)
        monkeypatch.setattr(trainers, "placement_group_table", ray.table)
        monkeypatch.setattr(
            trainers, "remove_placement_group", lambda group: ray.freed.append(group.id.hex())
        )
        group = TrainerGroup(print, {}, 1, 0, tmp_path, together=True)
        Trainers({}).fit(group, when_stuck)

    return fit


def test_another_is_started_and_places_of_the_dead_one_are_free(fit, tmp_path):
    ray = Ray([ActorDiedError(), None], NUMBERS)
    fit(ray)
    assert (ray.started, ray.killed, ray.freed) == (2, [1], NUMBERS)
    assert not (tmp_path / PLACES_FILE).exists()


def test_places_that_an_earlier_cluster_gave_are_left_alone(fit, tmp_path):
    note_place(tmp_path, NUMBERS[0])
    ray = Ray([ActorDiedError(), None])
    fit(ray)
    assert ray.freed == []


def test_one_that_dies_again_and_again_is_given_up(fit):
    ray = Ray([ActorDiedError()] * (RESTARTS + 1))
    with pytest.raises(ProcessDied, match="the trainers: its process died"):
        fit(ray)
    assert ray.started == RESTARTS + 1


def test_what_a_group_raises_is_no_death(fit):
    failed = StageFailed("the trainer's process died more than 3 times")
    ray = Ray([RayTaskError("fit", "traceback", failed)])
    with pytest.raises(StageFailed, match="more than 3 times"):
        fit(ray)
    assert (ray.started, ray.killed) == (1, [])


@pytest.mark.parametrize(
    ("states", "stuck"),
    [
        (["CREATED", "CREATED"], 0),
        (["PENDING", "CREATED", "PENDING", "CREATED"], 0),  # it takes a moment
        (["PENDING", "PENDING", "PENDING", "CREATED"], 2),
        (["CREATED", "RESCHEDULING", "RESCHEDULING", "CREATED"], 1),  # its node died
    ],
)
def test_a_group_that_stays_without_a_place_is_told(fit, states, stuck):
    told = []
    fit(Ray([None], NUMBERS, states), lambda: told.append(1))
    assert len(told) == stuck
