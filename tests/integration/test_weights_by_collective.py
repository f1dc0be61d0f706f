"""The nccl protocol between real processes, with gloo in NCCL's place: publishers and receivers,
their store, their deadlines and their messages are the real ones.

Run as a program, this file is one engine's worker.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from posttrain.errors import DeadlineExceeded, PosttrainError, WeightsDiffer  # noqa: E402
from posttrain.types import WeightVersion  # noqa: E402
from posttrain.weight_sync import nccl_publisher  # noqa: E402
from posttrain.weight_sync.adapter import adapter_tensors  # noqa: E402
from posttrain.weight_sync.deadlines import Deadline  # noqa: E402
from posttrain.weight_sync.device_checksum import device_checksum  # noqa: E402
from posttrain.weight_sync.nccl_publisher import NcclPublisher  # noqa: E402
from posttrain.weight_sync.nccl_receiver import NcclReceiver  # noqa: E402
from posttrain.weight_sync.transport import EngineMember  # noqa: E402

HOST = "127.0.0.1"


class GlooEnd:
    """Either end of a group whose collectives run on CPUs."""

    def __init__(self, group, rank, seconds):
        from torch.distributed import ProcessGroupGloo, TCPStore

        limit = timedelta(seconds=seconds)
        store = TCPStore(
            group.address,
            group.port,
            is_master=rank == 0,
            wait_for_workers=False,
            timeout=limit,
        )
        self.ends = (store, ProcessGroupGloo(store, rank, group.world_size, limit))

    def send(self, tensors):
        for tensor in tensors.values():
            self.ends[1].broadcast([tensor]).wait()

    def receive(self, shipment):
        tensors = {
            name: torch.empty(shape, dtype=getattr(torch, dtype))
            for name, dtype, shape in zip(
                shipment.names, shipment.dtypes, shipment.shapes, strict=True
            )
        }
        self.send(tensors)
        return tensors

    def close(self):
        self.ends = None


class Torn(GlooEnd):
    """Loses one number on the way."""

    def receive(self, shipment):
        tensors = super().receive(shipment)
        tensors["norm"][3] += 1
        return tensors


def engine_main(name: str, worker: str, kind: str) -> None:
    """Takes versions as lines of JSON, answers each with a line of JSON."""
    end = {"gloo": GlooEnd, "torn": Torn}[kind]
    receiver = NcclReceiver(
        name, int(worker), lambda group, first, seconds: end(group, first + int(worker), seconds)
    )
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        try:
            tensors = receiver.receive(WeightVersion(**order["version"]), order["seconds"])
            answer = {"sums": {key: float(value.sum()) for key, value in tensors.items()}}
        except PosttrainError as error:
            answer = {"error": type(error).__name__, "message": error.message}
        print(json.dumps(answer), flush=True)


class Engine:
    def __init__(self, name: str, worker: int = 0, kind: str = "gloo") -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, name, str(worker), kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def take(self, version: WeightVersion, seconds: float = 30.0) -> None:
        fields = ("attempt", "version", "checksum", "location", "num_bytes")
        order = {"version": {f: getattr(version, f) for f in fields}, "seconds": seconds}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict:
        return json.loads(self.process.stdout.readline())

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


class Fleet:
    """Started engines by name, and the publisher that serves those in `members`."""

    def __init__(self) -> None:
        self.engines: dict[str, Engine] = {}
        self.members: list[EngineMember] = []
        self.publishers: list[NcclPublisher] = []
        self.announced: list[WeightVersion] = []

    def start(self, *names: str, kind: str = "gloo") -> None:
        for name in names:
            self.engines[name] = Engine(name, kind=kind)
            self.members.append(EngineMember(name))
        for name in names:
            assert self.engines[name].process.stdout.readline() == "ready\n"

    def publisher(self, deadline_s: float = 30.0, tries: int = 1) -> NcclPublisher:
        """All members lack every version. What is sent again goes to the engines of its group."""

        def open_sender(group, seconds):
            return GlooEnd(group, 0, seconds)

        def announce(version):
            self.announced.append(version)
            for member in made._group.members:
                self.engines[member.name].take(version)

        made = NcclPublisher(
            HOST,
            lambda without: self.members,
            announce,
            lambda version: None,
            open_sender,
            deadline_s,
            deadline_s,
            tries,
        )
        self.publishers.append(made)
        return made

    def publish(self, publisher, version: int, value: float, takers=None):
        """Prepare, announce to `takers` (all members where not given), deliver."""
        published = publisher.prepare(weights(value), version, 0)
        for name in takers or [member.name for member in self.members]:
            self.engines[name].take(published)
        publisher.deliver(published)
        return published


@pytest.fixture
def fleet():
    fleet = Fleet()
    yield fleet
    for engine in fleet.engines.values():
        engine.end()
    for publisher in fleet.publishers:
        publisher.close()


def weights(value: float) -> dict[str, torch.Tensor]:
    return {
        "layer.weight": torch.full((64, 48), value),
        "norm": torch.arange(7.0) * value,
        "embed": torch.full((5, 3), value, dtype=torch.bfloat16),
    }


def sums(value: float) -> dict[str, float]:
    # 64 * 48 = 3072 numbers; 0 + 1 + ... + 6 = 21; 5 * 3 = 15 numbers
    return {"embed": 15 * value, "layer.weight": 3072 * value, "norm": 21 * value}


def test_versions_arrive_at_every_engine_and_engines_come_and_go(fleet):
    fleet.start("0", "1")
    publisher = fleet.publisher()
    tensors = weights(2.0)
    first = publisher.prepare(tensors, 1, 0)
    tensors["norm"].zero_()  # the optimiser's next step: what was prepared is a copy
    for engine in fleet.engines.values():
        engine.take(first)
    publisher.deliver(first)
    publisher.release(first)
    assert [engine.answer() for engine in fleet.engines.values()] == [{"sums": sums(2.0)}] * 2
    assert first.checksum == device_checksum(weights(2.0))
    assert first.num_bytes == 4 * 3072 + 4 * 7 + 2 * 15
    assert first.location.rsplit("/", 1)[1] == "1"  # generation

    second = fleet.publish(publisher, 2, 4.0)
    publisher.release(second)
    assert second.location == first.location  # the same engines: the same group
    assert [engine.answer() for engine in fleet.engines.values()] == [{"sums": sums(4.0)}] * 2

    fleet.start("2")
    third = fleet.publish(publisher, 3, 8.0)
    publisher.release(third)
    assert third.location.rsplit("/", 1)[1] == "2"
    assert [engine.answer() for engine in fleet.engines.values()] == [{"sums": sums(8.0)}] * 3

    fleet.engines["0"].end()
    del fleet.engines["0"], fleet.members[0]
    fourth = fleet.publish(publisher, 4, 16.0)
    publisher.release(fourth)
    assert [engine.answer() for engine in fleet.engines.values()] == [{"sums": sums(16.0)}] * 2


def test_an_engine_that_joins_while_the_trainer_waits_is_sent_what_the_others_have(fleet):
    """With one engine that dies this is what training goes on with: no other version is coming."""
    fleet.start("0")
    publisher = fleet.publisher()
    first = fleet.publish(publisher, 1, 2.0)
    assert fleet.engines["0"].answer() == {"sums": sums(2.0)}
    fleet.engines["1"] = Engine("1")
    assert fleet.engines["1"].process.stdout.readline() == "ready\n"
    everybody = [*fleet.members, EngineMember("1")]
    fleet.members = everybody[1:]  # that lack it
    assert fleet.engines["1"].answer() == {"sums": sums(2.0)}
    (again,) = fleet.announced
    assert again.is_same_as(first) and again.location != first.location
    fleet.members = everybody
    publisher.release(first)
    second = fleet.publish(publisher, 2, 4.0)
    publisher.release(second)
    assert [engine.answer() for engine in fleet.engines.values()] == [{"sums": sums(4.0)}] * 2


def test_an_engine_that_never_comes_holds_up_no_other(fleet):
    """It is asked alone from then on, and that is no failure: somebody else gives it up."""
    fleet.start("0", "1", "2")
    publisher = fleet.publisher(deadline_s=5.0, tries=2)
    published = publisher.prepare(weights(2.0), 1, 0)
    lacking, everybody = set("012"), list(fleet.members)
    publisher._members = lambda without: [e for e in everybody if e.name in lacking]
    told = []
    publisher._announce = lambda version: told.append(
        ([member.name for member in publisher._group.members], version)
    )
    for name in ("0", "1"):
        fleet.engines[name].take(published, seconds=60.0)
    publisher.deliver(published)
    for name in ("0", "1"):
        assert fleet.engines[name].answer()["error"] == "WeightsGone"
    while not told:
        time.sleep(0.05)
    names, again = told[0]
    assert names == ["0", "1"]
    for name in names:
        fleet.engines[name].take(again)
    assert [fleet.engines[name].answer() for name in names] == [{"sums": sums(2.0)}] * 2
    while len(told) < 3:  # with the first that is as often as anything may fail
        time.sleep(0.05)
    assert [names for names, _ in told[1:3]] == [["2"]] * 2
    lacking.clear()  # it was given up
    publisher.release(published)


def test_a_version_that_nobody_lacks_is_sent_to_nobody_until_one_does(fleet):
    """A trainer that was started again publishes first what its engines have, or are ahead of."""
    publisher = fleet.publisher()
    first = publisher.prepare(weights(2.0), 1, 1)
    publisher.deliver(first)
    fleet.start("0")
    assert fleet.engines["0"].answer() == {"sums": sums(2.0)}
    publisher.release(first)


def test_copies_leave_the_device_with_whoever_else_holds_them(fleet, monkeypatch):
    """By name of what is put aside: here there is no device to leave."""
    fleet.start("0")
    put_aside = []
    monkeypatch.setattr(nccl_publisher, "_put_aside", lambda copies: put_aside.append(id(copies)))
    publisher = fleet.publisher()
    published = publisher.prepare(weights(2.0), 1, 0)
    held = id(publisher._prepared[1])
    fleet.engines["0"].take(published)
    publisher.deliver(published)
    publisher.release(published)
    assert put_aside == [held]


def test_closed_in_the_middle_of_a_delivery_its_thread_ends(fleet):
    fleet.start("0")
    publisher = fleet.publisher(deadline_s=5.0, tries=3)
    publisher.deliver(publisher.prepare(weights(1.0), 1, 0))  # nobody takes it
    thread = publisher._delivery[1]
    publisher.close()
    thread.join(20.0)
    assert not thread.is_alive()
    assert fleet.announced == []


def test_engines_outlive_a_trainer_that_dies_while_they_wait_for_it(fleet):
    fleet.start("0")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from tests.integration.test_weights_by_collective import lonely; lonely()"
    )
    root = str(Path(__file__).parents[2])
    trainer = subprocess.Popen(
        [sys.executable, "-c", code, root], stdout=subprocess.PIPE, text=True
    )
    fields = json.loads(trainer.stdout.readline())
    fleet.engines["0"].take(WeightVersion(**fields))
    assert trainer.stdout.readline() == "joined\n"
    trainer.kill()
    trainer.communicate()
    answer = fleet.engines["0"].answer()
    assert answer["error"] == "WeightsGone"
    assert "went away while engine 0 waited for it to form group 1" in answer["message"]


def lonely() -> None:
    """A trainer that has a second engine to wait for, which never comes."""
    members = [EngineMember("0"), EngineMember("1")]
    publisher = NcclPublisher(HOST, lambda without: members, print, print, GlooEnd, 60.0, 60.0)
    published = publisher.prepare(weights(1.0), 1, 0)
    fields = ("attempt", "version", "checksum", "location", "num_bytes")
    print(json.dumps({field: getattr(published, field) for field in fields}), flush=True)
    publisher.deliver(published)
    publisher._meeting.read("joined/1/0/0", 9, "test", "see", Deadline(60.0))
    print("joined", flush=True)
    threading.Event().wait()


def test_where_an_engine_dies_on_the_way_the_others_are_sent_the_version_again(fleet):
    fleet.start("0", "1", "2")
    publisher = fleet.publisher(tries=2)
    published = publisher.prepare(weights(2.0), 1, 0)
    for name in ("0", "1"):
        fleet.engines[name].take(published)
    fleet.engines["2"].end()  # before it could join
    publisher.deliver(published)
    fleet.members = fleet.members[:2]  # its death is noticed
    told = [[engine.answer() for _ in range(2)] for engine in list(fleet.engines.values())[:2]]
    publisher.release(published)
    for of_one in told:
        assert of_one[0]["error"] == "WeightsGone"
        assert of_one[1] == {"sums": sums(2.0)}
    assert [each.version for each in fleet.announced] == [1]


def test_an_adapter_arrives_with_its_scaling_and_its_base(fleet):
    """The same way as weights, though its tensors have four shapes and three number formats."""
    fleet.start("0")
    publisher = fleet.publisher()
    matrices = {"a.lora_A.weight": torch.ones(2, 48), "a.lora_B.weight": torch.full((64, 2), 0.5)}
    adapter = adapter_tensors(matrices, 2.5, "ff" * 16)
    published = publisher.prepare(adapter, 1, 0)
    fleet.engines["0"].take(published)
    publisher.deliver(published)
    publisher.release(published)
    assert fleet.engines["0"].answer() == {
        "sums": {
            "a.lora_A.weight": 96.0,  # 2 * 48 ones
            "a.lora_B.weight": 64.0,  # 64 * 2 halves
            "adapter.base": 16 * 255.0,
            "adapter.scaling": 2.5,
        }
    }
    assert published.num_bytes == 4 * (96 + 128) + 16 + 8


def test_an_engine_that_does_not_come_is_named_and_the_others_too(fleet):
    fleet.start("0", "1", "2")
    publisher = fleet.publisher(deadline_s=5.0)
    published = fleet.publish(publisher, 42, 1.0, takers=["0", "1"])
    with pytest.raises(DeadlineExceeded) as caught:
        publisher.release(published)
    assert caught.value.message == (
        "trainer rank 0 waited 5 s for engine 2 to join the weight transfer; engines 0, 1 answered"
    )
    # Those that came have waited in vain; the same version, published again, reaches them.
    for name in ("0", "1"):
        fleet.engines[name].end()
    fleet.engines.clear(), fleet.members.clear()
    fleet.start("3")
    publisher._deadline_s = publisher._meet_s = 30.0
    again = fleet.publish(publisher, 42, 1.0)
    publisher.release(again)
    assert fleet.engines["3"].answer() == {"sums": sums(1.0)}
    assert again.checksum == published.checksum


def test_an_engine_that_stops_answering_in_a_group_is_named(fleet):
    fleet.start("0", "5")
    publisher = fleet.publisher()
    publisher.release(fleet.publish(publisher, 41, 1.0))
    publisher._deadline_s = publisher._meet_s = 5.0
    fleet.engines["5"].end()
    published = fleet.publish(publisher, 42, 2.0, takers=["0"])
    with pytest.raises(DeadlineExceeded) as caught:
        publisher.prepare(weights(3.0), 43, 0)
    assert caught.value.message == (
        "trainer rank 0 waited 5 s for engine 5 to take version 42; engine 0 answered"
    )
    assert published.version == 42


def test_an_engine_waits_no_longer_than_it_may(fleet):
    fleet.start("0")
    publisher = fleet.publisher()
    published = publisher.prepare(weights(1.0), 1, 0)
    fleet.engines["0"].take(published, seconds=5.0)  # never delivered
    assert fleet.engines["0"].answer() == {
        "error": "DeadlineExceeded",
        "message": "engine 0 waited 5 s for trainer rank 0 to form group 1; it answers, but has "
        "not",
    }
    fleet.engines["0"].take(replace(published, version=7), seconds=1.0)
    answer = fleet.engines["0"].answer()
    assert answer["error"] == "DeadlineExceeded"


def test_a_version_that_is_not_the_one_in_flight_is_waited_for_in_vain(fleet):
    fleet.start("0")
    publisher = fleet.publisher()
    first = fleet.publish(publisher, 1, 1.0)
    publisher.release(first)
    fleet.engines["0"].answer()
    fleet.engines["0"].take(replace(first, version=2), seconds=5.0)
    assert fleet.engines["0"].answer() == {
        "error": "DeadlineExceeded",
        "message": "engine 0 waited 5 s for trainer rank 0 to send version 2; "
        "it answers, but has not",
    }


def test_bytes_that_change_on_the_way_are_noticed_on_both_sides(fleet):
    fleet.start("0", kind="torn")
    publisher = fleet.publisher()
    published = fleet.publish(publisher, 3, 1.0)
    answer = fleet.engines["0"].answer()
    assert answer["error"] == "WeightsDiffer"
    words = answer["message"].split()
    assert words[:4] == ["engine", "0", "received", "checksum"]
    assert answer["message"].endswith(
        f"for version 3, the trainer published {published.checksum[:8]}"
    )
    with pytest.raises(WeightsDiffer, match="engine 0 refused version 3: engine 0 received"):
        publisher.release(published)


def test_an_engine_that_is_not_in_the_group_is_told_so(fleet):
    fleet.start("0", "9")
    fleet.members = [EngineMember("0")]
    publisher = fleet.publisher()
    published = fleet.publish(publisher, 1, 1.0, takers=["0", "9"])
    publisher.release(published)
    assert fleet.engines["9"].answer() == {
        "error": "WeightsGone",
        "message": "engine 9 is not in weight-transfer group 1: it holds engine 0",
    }


def test_nothing_waits_for_a_trainer_that_is_gone(fleet):
    threads = threading.active_count()
    fleet.start("0")
    nowhere = WeightVersion(0, 1, "", "nccl://127.0.0.1:1/1")
    fleet.engines["0"].take(nowhere, seconds=1.0)
    answer = fleet.engines["0"].answer()
    assert answer["message"] == (
        "engine 0 waited 1 s for trainer rank 0 at 127.0.0.1:1 to answer; it does not"
    )
    assert threading.active_count() <= threads


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    engine_main(*sys.argv[1:])
