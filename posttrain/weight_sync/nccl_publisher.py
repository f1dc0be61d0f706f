"""The trainer's side of `nccl`: rank 0 broadcasts a copy of the weights to all engines' workers.

`prepare` copies the tensors on their device (the optimiser goes on changing the originals), takes
the checksum there and writes into the store what will be sent. `deliver` hands the copy on to a
thread:

    wait until every worker is ready -> broadcast -> wait for every answer -> compare checksums

with a deadline for each of them. Whatever goes wrong, the group is given up, because a collective
that one side has left cannot be mended, and the version goes out again to another one, of the
engines there are then: `announce` tells them. The same where an engine joins, until the next
version is on its way: it cannot have been in the group, and has nothing to compute with. Rank 0
alone does this: in a sharded trainer it is handed whole tensors.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from threading import Event, Thread
from time import monotonic
from typing import TYPE_CHECKING, Protocol, TypeVar

from posttrain.errors import DeadlineExceeded, PosttrainError, StageFailed
from posttrain.types import WeightVersion
from posttrain.weight_sync.deadlines import Deadline, within
from posttrain.weight_sync.device_checksum import device_checksum
from posttrain.weight_sync.nccl_meeting import (
    Group,
    Meeting,
    Shipment,
    location_of,
    read_answer,
)
from posttrain.weight_sync.transport import EngineMember, listed, require_acknowledged

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
Members = Callable[[WeightVersion | None], Sequence[EngineMember]]
DEADLINE_S = 120.0  # of a collective
MEET_S = 45.0  # until all are there: engines themselves wait for 120 s from when they are told
MOST_TRIES = 5  # to send a version
LOOK_EVERY_S = 2.0  # after engines that have joined or left
GONE_AFTER_S = 10.0  # a coordinator that was started again knows an engine once that reports


class Sender(Protocol):
    """Rank 0's end of a collective group."""

    def send(self, tensors: Mapping[str, Tensor]) -> None:
        """Broadcast all tensors in order; returns when they have left."""
        ...

    def close(self) -> None: ...


class NcclPublisher:
    """`transport.WeightPublisher` by collective.

    `members` names the engines that have to take a version, or with None all that live; `announce`
    tells the first of a version that is sent again; `wait` returns when all that live have a
    version; `open_sender` opens rank 0's end of a group (vLLM's, or a stand-in). The first two are
    called from the thread that sends, too. Needs room for the weights once more on the trainer's
    device while they are sent, then on its host.
    """

    def __init__(
        self,
        address: str,
        members: Members,
        announce: Callable[[WeightVersion], None],
        wait: Callable[[WeightVersion], object],
        open_sender: Callable[[Group, float], Sender],
        deadline_s: float = DEADLINE_S,
        meet_s: float = MEET_S,
        tries: int = MOST_TRIES,
    ) -> None:
        """`address`: this host's, as engines reach it."""
        self._address = address
        self._members = members
        self._announce = announce
        self._wait = wait
        self._open_sender = open_sender
        self._deadline_s = deadline_s
        self._meet_s = meet_s
        self._tries = tries
        self._meeting, self._port = Meeting.host(address)
        self._generation = 0
        self._group: Group | None = None
        self._sender: Sender | None = None
        self._prepared: tuple[WeightVersion, dict[str, Tensor]] | None = None
        self._delivery: tuple[WeightVersion, Thread] | None = None
        self._is_over = Event()  # the delivery: another version is on its way
        self._is_closed = False
        self._failure: PosttrainError | None = None
        self._old_keys: list[str] = []

    def prepare(self, tensors: Mapping[str, Tensor], version: int, attempt: int) -> WeightVersion:
        """Copy the tensors, and form another group where engines have joined or left.

        Raises, once, what the last delivery raised; the next call begins with a new group.
        """
        if self._delivery is not None and self._delivery[1].is_alive():
            self._wait(self._delivery[0])  # while somebody sends it to those that lack it
        self._finish_delivery()
        copies = {name: tensors[name].detach().clone() for name in sorted(tensors)}
        num_bytes = sum(copy.numel() * copy.element_size() for copy in copies.values())
        weights = WeightVersion(attempt, version, device_checksum(copies), "", num_bytes)
        weights = self._offer(weights, copies, tuple(self._members(weights)))
        self._prepared = weights, copies
        return weights

    def deliver(self, version: WeightVersion) -> None:
        """Send the prepared version in a thread of its own."""
        self._finish_delivery()
        assert self._prepared is not None and self._prepared[0] == version
        copies, self._prepared = self._prepared[1], None
        self._is_over.clear()
        thread = Thread(
            target=self._deliver, args=(version, copies), name="weight delivery", daemon=True
        )
        self._delivery = (version, thread)
        thread.start()

    def release(self, version: WeightVersion) -> None:
        """Wait until its delivery is over (deadlines bound that) and raise what it raised."""
        if self._delivery is not None and self._delivery[0] == version:
            self._finish_delivery()
        keys, self._old_keys = self._old_keys, []
        self._meeting.forget(keys)

    def close(self) -> None:
        """Leave the group; the store goes with this object."""
        self._is_closed = True
        self._is_over.set()
        self._give_up()

    # -- a version on its way -------------------------------------------------------------------

    def _deliver(self, version: WeightVersion, copies: dict[str, Tensor]) -> None:
        try:
            self._look_after(version, copies)
        except Exception as error:  # torch, NCCL and vLLM raise whatever they like
            self._give_up()
            self._failure = _ours(error, version)

    def _look_after(self, version: WeightVersion, copies: dict[str, Tensor]) -> None:
        """Until the next version comes: send; again where that failed, or an engine has joined."""
        failures, served, late = 0, set[EngineMember](), set[str]()
        while True:
            try:
                served |= self._send(version, copies, late)
            except Exception:
                group = self._group
                self._give_up()
                # One that never comes holds up no others: it is asked alone, until it is given up.
                on_time = group is None or any(each.name not in late for each in group.members)
                failures += on_time
                if failures == self._tries:
                    raise
                lacking = self._lacking(version, served)
                lacking = tuple(each for each in lacking if each.name not in late) or lacking
            else:
                failures = 0
                _put_aside(copies)
                lacking = self._joined(version, served)
            if self._is_closed or (self._is_over.is_set() and not lacking):
                return
            version = self._offer(version, copies, lacking)
            self._announce(version)

    def _lacking(
        self, version: WeightVersion, served: set[EngineMember]
    ) -> tuple[EngineMember, ...]:
        """Those that have to take it and were not sent it: it may take a while to be taken."""
        return tuple(each for each in self._members(version) if each not in served)

    def _joined(
        self, version: WeightVersion, served: set[EngineMember]
    ) -> tuple[EngineMember, ...]:
        """Once there are some; none where another version is on its way before."""
        while not (lacking := self._lacking(version, served)):
            if self._is_over.wait(LOOK_EVERY_S):
                break
        return lacking

    def _send(
        self, version: WeightVersion, copies: dict[str, Tensor], late: set[str]
    ) -> set[EngineMember]:
        """The engines that have received it; those that did not come in time go to `late`."""
        group = self._group
        if group is None:
            raise StageFailed("the weight transfer was closed")
        workers = group.workers()
        if not workers:
            return set()  # all have it, or nobody is there yet
        key = f"{group.generation}/{version.attempt}-{version.version}"
        wanted = f"take version {version.version}"
        watch = self._watch(group, wanted)
        if self._sender is None:
            joined = f"joined/{group.generation}"
            meeting = Deadline(self._meet_s)
            join = "join the weight transfer"
            self._meeting.gather(joined, workers, join, meeting, watch, late.update)
            self._meeting.tell(f"open/{group.generation}", "1")
            self._open(group, wanted, watch)
        ready, meeting = f"ready/{key}", Deadline(self._meet_s)
        self._meeting.gather(ready, workers, wanted, meeting, watch, late.update)
        self._meeting.tell(f"send/{key}", "1")
        sender, deadline = self._sender, Deadline(self._deadline_s)
        assert sender is not None
        self._bounded(deadline, wanted, lambda: sender.send(copies), watch)
        answers = self._meeting.gather(f"answer/{key}", workers, wanted, deadline, watch)
        for (engine, _), text in answers.items():
            require_acknowledged(version, read_answer(text, version, engine), engine)
        ends = [f"{engine}/{worker}" for engine, worker in workers]
        self._old_keys += [f"sync/{key}", f"send/{key}"]
        self._old_keys += [f"{kind}/{key}/{end}" for kind in ("ready", "answer") for end in ends]
        return set(group.members)

    def _open(self, group: Group, wanted: str, watch: Callable[[], None]) -> None:
        deadline = Deadline(self._deadline_s)
        sender = self._bounded(
            deadline, wanted, lambda: self._open_sender(group, deadline.left_s), watch
        )
        if self._is_closed:  # meanwhile
            sender.close()
            raise StageFailed("the weight transfer was closed")
        self._sender = sender

    def _bounded(
        self, deadline: Deadline, wanted: str, call: Callable[[], T], watch: Callable[[], None]
    ) -> T:
        members = [member.name for member in self._group.members] if self._group else []
        return within(
            deadline,
            call,
            lambda: DeadlineExceeded(
                f"trainer rank 0 waited {deadline.seconds:g} s inside a collective for "
                f"{listed(members)} to {wanted}; all of them had begun it",
                help="one of them died or lost its network; engines that are caught in the "
                "collective are replaced, and the version is sent again",
            ),
            watch,
        )

    def _finish_delivery(self) -> None:
        self._is_over.set()
        if self._delivery is not None:
            self._delivery[1].join()
            self._delivery = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    # -- who takes part -------------------------------------------------------------------------

    def _offer(
        self,
        version: WeightVersion,
        copies: Mapping[str, Tensor],
        members: tuple[EngineMember, ...],
    ) -> WeightVersion:
        """Write down what will be sent, and by which group; the version with its place."""
        group = self._group_of(members)
        shipment = Shipment(
            version.attempt,
            version.version,
            version.checksum,
            tuple(copies),
            tuple(str(copy.dtype).removeprefix("torch.") for copy in copies.values()),
            tuple(tuple(copy.shape) for copy in copies.values()),
        )
        key = f"sync/{group.generation}/{version.attempt}-{version.version}"
        self._meeting.tell(key, shipment.to_json())
        return replace(version, location=location_of(self._address, self._port, group.generation))

    def _group_of(self, members: tuple[EngineMember, ...]) -> Group:
        if self._group is None or self._group.members != members:
            self._give_up()
            self._generation += 1
            port = _free_port(self._address)
            self._group = Group(self._generation, self._address, port, members)
            self._meeting.tell(f"group/{self._generation}", self._group.to_json())
        return self._group

    def _give_up(self) -> None:
        sender, group, self._sender, self._group = self._sender, self._group, None, None
        if group is not None:
            self._meeting.tell(f"over/{group.generation}", "1")
        if sender is not None:
            sender.close()

    def _watch(self, group: Group, wanted: str) -> Callable[[], None]:
        """Raises, where it is called while others wait, once one of the group is gone for good."""
        looked_at = all_there_at = monotonic()

        def watch() -> None:
            nonlocal looked_at, all_there_at
            asked_at = monotonic()
            if asked_at - looked_at < LOOK_EVERY_S:
                return
            living = set(self._members(None))
            looked_at = monotonic()
            gone = [member.name for member in group.members if member not in living]
            was_away = looked_at - asked_at > LOOK_EVERY_S  # a coordinator that knows nobody yet
            if not gone or not living or was_away:
                all_there_at = looked_at
            elif looked_at - all_there_at >= GONE_AFTER_S:
                raise StageFailed(f"{listed(gone)} is gone, and was to {wanted}")

        return watch


def _put_aside(copies: dict[str, Tensor]) -> None:
    """Off the trainer's device, which has better uses for the room until an engine joins. In place:
    others hold the dictionary, too.
    """
    import torch

    for name, copy in copies.items():
        if copy.device.type == "cuda":
            with torch.cuda.stream(torch.cuda.Stream(copy.device)):  # beside the step of now
                copies[name] = copy.cpu()


def _ours(error: Exception, version: WeightVersion) -> PosttrainError:
    if isinstance(error, PosttrainError):
        return error
    failure = StageFailed(
        f"trainer rank 0 could not send version {version.version}: {error!r}",
        place=version.location,
    )
    failure.__cause__ = error
    return failure


def _free_port(address: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]
