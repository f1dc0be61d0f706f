"""Nodes that cannot take part, and engines that weights do not reach. Ray is not started."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from posttrain.cluster import nodes
from posttrain.cluster.engine_place import EnginePlace, ShmAcrossHosts, require_one_memory
from posttrain.cluster.engines import EnginePool, Lease, _Pooled
from posttrain.cluster.nodes import sees, unseen
from posttrain.pipeline.room import Room
from posttrain.ports import EngineSpec
from posttrain.weight_sync.shared_directory import memory_name

RUN = Path("/nfs/runs/a")
SLOT = Room(1, 0)


def test_nodes_that_all_see_the_folder() -> None:
    assert unseen({"10.0.0.1 (ab)": True, "10.0.0.2 (cd)": True}, RUN) is None


def test_nodes_that_do_not_see_it_are_named() -> None:
    problem = unseen({"10.0.0.1 (ab)": True, "10.0.0.2 (cd)": False, "10.0.0.3 (ef)": False}, RUN)
    assert problem is not None
    assert problem.code == "run-folder-unseen"
    assert problem.message.startswith(
        "2 of 3 nodes cannot work with /nfs/runs/a: 10.0.0.2 (cd), 10.0.0.3 (ef); "
    )


def test_a_node_without_posttrain_says_so() -> None:
    why = "waiting for node 10.0.0.2: ModuleNotFoundError: No module named 'posttrain'"
    problem = unseen({"10.0.0.1 (ab)": True, "10.0.0.2 (cd)": why}, RUN)
    assert problem is not None
    assert problem.message == (f"1 of 2 nodes cannot work with /nfs/runs/a: 10.0.0.2 (cd) ({why})")


def test_a_file_that_a_slow_file_system_shows_late_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "LOOK_AGAIN_S", 0.5)
    assert not sees(str(tmp_path / "never"))
    late = threading.Timer(0.1, (tmp_path / "late").touch)
    late.start()
    assert sees(str(tmp_path / "late"))
    late.join()


HERE = EnginePlace("node-1", (), "boot-1/26")


def test_engines_with_the_trainers_memory() -> None:
    require_one_memory(HERE, [EnginePlace("node-1", (3,), "boot-1/26")], "the trainer")
    require_one_memory(HERE, [], "the trainer")


def test_engines_out_of_reach_are_named_even_where_hosts_share_a_name() -> None:
    engines = [HERE, EnginePlace("node-2", (), "boot-2/26"), EnginePlace("node-1", (), "boot-1/40")]
    with pytest.raises(ShmAcrossHosts) as caught:
        require_one_memory(HERE, engines, "the trainer")
    assert caught.value.message == (
        "weights travel through shared memory, and engines on node-1, node-2 have another than "
        "the trainer on node-1"
    )
    assert caught.value.code == "shm-across-hosts"


def test_a_process_and_its_neighbour_name_one_memory() -> None:
    name, device = memory_name().rsplit("/", 1)
    assert name and device.isdigit()
    assert memory_name() == f"{name}/{device}"


@pytest.mark.parametrize(("weight_sync", "refused"), [("shm", True), ("nccl", False)])
def test_a_replacement_on_another_host_is_refused_and_ended(
    weight_sync: str, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = EngineSpec("m", 64, "fp32", 128, True, 32, 8, weight_sync=weight_sync)
    old = _Pooled("k", SimpleNamespace(name="0"), None, SLOT, place=HERE)
    there = EnginePlace("node-2", (), "b/1")
    fresh = _Pooled("k", SimpleNamespace(name="1"), None, SLOT, place=there)
    pool = EnginePool(lambda: Room(2, 0), lambda: False)
    ended: list[str] = []
    monkeypatch.setattr(pool, "replace", lambda engine, spec, given_up: fresh)
    monkeypatch.setattr(pool, "distrust", ended.extend)
    lease = Lease(pool, spec, [old])
    if refused:
        for _ in range(2):  # the crew tries again: another may land in reach
            with pytest.raises(ShmAcrossHosts, match="than the engine before it on node-1"):
                lease.replace("0")
        assert ended == ["1", "1"]
        fresh.place = HERE
    assert lease.replace("0").name == "1"
    assert lease.places == [fresh.place]
