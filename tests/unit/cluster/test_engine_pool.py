"""Which engines stay when nobody uses them. No process is started: a launched engine is a name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RaySystemError

from posttrain.cluster import engines
from posttrain.cluster.engine_place import EnginePlace
from posttrain.errors import EngineFailed, Interrupted, PosttrainError, ProcessDied
from posttrain.pipeline.room import Room
from posttrain.ports import EngineSpec


class Actor:
    """What the pool calls of an EngineActor's handle."""

    def __init__(self, ended: list[str], name: str) -> None:
        self.ended, self.name = ended, name
        self.start = SimpleNamespace(remote=lambda: EnginePlace())
        self.load_model_folder = SimpleNamespace(remote=lambda path: None)


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the engines that were ended, in order."""
    names: list[str] = []

    def remote(_: Any) -> Any:
        def launch(spec: EngineSpec, name: str) -> Actor:
            return Actor(names, name)

        return SimpleNamespace(
            options=lambda **_: SimpleNamespace(remote=launch),
        )

    monkeypatch.setattr(engines.ray, "remote", remote)
    monkeypatch.setattr(engines.ray, "kill", lambda actor: names.append(actor.name))
    monkeypatch.setattr(engines.calls, "get", lambda answer, *_: answer)
    monkeypatch.setattr(engines.ray, "wait", lambda answers, timeout: (answers, []))
    yield names


@pytest.fixture
def spec(tmp_path: Path) -> EngineSpec:
    (tmp_path / "config.json").write_text("{}")
    return EngineSpec(str(tmp_path), 64, "fp32", 128, True, 32, 8, gpus=1)


def pool_of(cpus: int, gpus: int) -> engines.EnginePool:
    return engines.EnginePool(lambda: Room(cpus, gpus), lambda: False)


def test_an_idle_engine_stays_where_there_is_room_for_all(
    ended: list[str], spec: EngineSpec
) -> None:
    pool = pool_of(3, 2)
    with pool.lease(spec, 1):
        pass
    with pool.room_for(Room(2, 1)):
        pass
    with pool.lease(spec, 1) as lease:
        assert [handle.name for handle in lease.handles] == ["0"]
    assert ended == []


@pytest.mark.parametrize("wanted", [Room(1, 2), Room(2, 0)])
def test_idle_engines_end_the_youngest_first_until_what_is_wanted_fits(
    ended: list[str], spec: EngineSpec, wanted: Room
) -> None:
    pool = pool_of(4, 4)
    with pool.lease(spec, 3):
        pass
    with pool.room_for(wanted):
        assert ended == ["2"]


def test_an_engine_that_is_given_back_while_others_wait_for_its_room_ends(
    ended: list[str], spec: EngineSpec
) -> None:
    pool = pool_of(2, 1)
    with ExitStack() as claim:
        with pool.lease(spec, 1):
            claim.enter_context(pool.room_for(Room(1, 1)))
            assert ended == []  # in use: it is waited for
        assert ended == ["0"]


def test_claims_of_several_add_up_and_end_with_their_blocks(
    ended: list[str], spec: EngineSpec
) -> None:
    pool = pool_of(4, 3)
    with pool.lease(spec, 1):
        pass
    with pool.room_for(Room(2, 1)):
        with pool.room_for(Room(1, 1)):
            assert ended == []
        with pool.room_for(Room(1, 1)):
            assert ended == []
            with pool.room_for(Room(1, 0)):
                assert ended == ["0"]


def test_brief_work_waits_for_one_another_and_ends_an_engine_only_where_none_of_it_fits(
    ended: list[str], spec: EngineSpec
) -> None:
    pool = pool_of(3, 1)
    with pool.lease(spec, 1):
        pass
    one = Room(1, 0)
    with pool.room_for(one), pool.room_for(one, brief=True):
        with pool.room_for(one, brief=True):
            assert ended == []
        with pool.room_for(one):
            assert ended == ["0"]


def test_an_engine_that_waits_long_for_its_start_has_idle_ones_ended(
    ended: list[str], spec: EngineSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = pool_of(9, 9)
    with pool.lease(spec, 2):
        pass
    looks = iter([[], [], ["done"]])
    monkeypatch.setattr(engines, "LONG_WAIT_S", -1.0)
    with pool.lease(spec, 1) as lease:
        monkeypatch.setattr(engines.ray, "wait", lambda answers, timeout: (next(looks), []))
        assert lease.replace("0").name == "2"
    assert ended == ["0", "1"]


@pytest.mark.parametrize("by", ["the stage", "the run"])
def test_the_wait_for_an_engine_is_given_up(
    ended: list[str], spec: EngineSpec, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    stops: list[bool] = []
    pool = engines.EnginePool(lambda: Room(2, 2), lambda: bool(stops))
    with pool.lease(spec, 1) as lease:
        monkeypatch.setattr(engines.ray, "wait", lambda answers, timeout: ([], answers))
        stops += [True] * (by == "the run")
        with pytest.raises(Interrupted, match="engine 1 to find room and start was given up"):
            lease.replace("0", lambda: by == "the stage")
        assert ended == ["0", "1"]


def test_an_engine_that_never_starts_is_told(
    ended: list[str], spec: EngineSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "ENGINE_START_S", 0.0)
    monkeypatch.setattr(engines.ray, "wait", lambda answers, timeout: ([], answers))
    told = "did not start: waited 0 s for engine 0 to find room"
    with pytest.raises(EngineFailed, match=told), pool_of(2, 2).lease(spec, 1):
        pass


def test_a_cluster_that_does_not_answer_undoes_nothing(ended: list[str], spec: EngineSpec) -> None:
    def gone() -> Room:
        raise RaySystemError("the head is out of reach")

    pool = engines.EnginePool(gone, lambda: False)
    with pool.lease(spec, 1), pool.room_for(Room(1, 0)):
        pass
    assert ended == []


@pytest.mark.parametrize(
    ("failures", "leases"),
    [
        ([ProcessDied("its process died")] * 2, "2"),
        ([ProcessDied("its process died")] * 3, None),
        ([EngineFailed("engine 0 did not start: no model folder")], None),
    ],
)
def test_an_engine_that_dies_while_it_starts_is_started_again(
    ended: list[str],
    spec: EngineSpec,
    monkeypatch: pytest.MonkeyPatch,
    failures: list[PosttrainError],
    leases: str | None,
) -> None:
    left = list(failures)

    def get(answer: Any, *_: Any) -> Any:
        if left and isinstance(answer, EnginePlace):
            raise left.pop(0)
        return answer

    monkeypatch.setattr(engines.calls, "get", get)
    pool = pool_of(3, 3)
    if leases is None:
        with pytest.raises(EngineFailed, match="did not start"), pool.lease(spec, 1):
            pass
        assert left == []
        assert {str(number) for number in range(len(failures))} == set(ended)
    else:
        with pool.lease(spec, 1) as lease:
            assert [handle.name for handle in lease.handles] == [leases]
        assert set(ended) == {"0", "1"}
    with pool.room_for(Room(3, 3)):  # which ends the one that is there
        assert len(set(ended)) == (3 if leases else len(failures))
