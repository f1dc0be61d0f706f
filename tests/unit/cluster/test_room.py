"""Waiting for a cluster's nodes. Ray is not started; its answers are the test's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from posttrain.cluster import room
from posttrain.config.document import Places
from posttrain.errors import InputError, Problem
from posttrain.pipeline.room import Held, Room, does_not_fit

WANTS = Held(2, 1, 1, 0, 1)
ONE, TWO = ({"Alive": True, "Resources": {"CPU": 4.0, "GPU": float(gpus)}} for gpus in (1, 2))
GONE = {"Alive": False, "Resources": {"CPU": 4.0, "GPU": 8.0}}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """`answers`: the nodes at each look, the last one for ever. `asked`: of the autoscaler."""
    state: dict[str, Any] = {"answers": [], "asked": [], "said": []}

    def nodes() -> list[dict[str, Any]]:
        return state["answers"].pop(0) if len(state["answers"]) > 1 else state["answers"][0]

    monkeypatch.setattr(room.ray, "nodes", nodes)
    monkeypatch.setattr(room, "request_resources", lambda bundles: state["asked"].append(bundles))
    monkeypatch.setattr(room, "LOOK_EVERY_S", 0.01)
    return state


def require(cluster: dict[str, Any], wait_s: float) -> None:
    def missing(nodes: Sequence[Room]) -> list[Problem]:
        return does_not_fit({"rlvr": WANTS}, nodes, False, Places({}))

    room.require_room(missing, [Held(0, 1, 1, 0, 0), WANTS], wait_s, cluster["said"].append)


def test_a_cluster_with_room_is_not_waited_for(cluster: dict[str, Any]) -> None:
    cluster["answers"] = [[ONE, TWO]]
    require(cluster, 60.0)
    assert cluster["asked"] == cluster["said"] == []


def test_without_waiting_it_is_a_mistake_and_dead_nodes_count_nothing(
    cluster: dict[str, Any],
) -> None:
    cluster["answers"] = [[TWO, GONE]]
    with pytest.raises(InputError) as found:
        require(cluster, 0.0)
    assert found.value.problems[0].code == "does-not-fit"
    assert "the cluster has 2 (1 node)" in found.value.problems[0].message
    assert cluster["asked"] == []


def test_nodes_that_come_end_the_wait_and_are_asked_for_meanwhile(cluster: dict[str, Any]) -> None:
    cluster["answers"] = [[ONE], [ONE], [ONE, TWO]]
    require(cluster, 60.0)
    engine = {"CPU": 1.0, "GPU": 1.0}
    assert cluster["asked"] == [[engine, engine, {"CPU": 1.0}, {"GPU": 1.0}], []]
    assert cluster["said"] == [
        "waiting for the cluster: wants 3 GPUs at once (2 engines of 1, 1 for rewards), "
        "the cluster has 1 (1 node)"
    ]


def test_a_wait_in_vain_ends_with_what_is_missing(cluster: dict[str, Any]) -> None:
    cluster["answers"] = [[ONE]]
    with pytest.raises(InputError, match="wants 3 GPUs"):
        require(cluster, 0.05)
    assert cluster["asked"][-1] == []  # nothing stays asked for
