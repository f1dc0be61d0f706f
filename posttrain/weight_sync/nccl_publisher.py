"""The trainer's side of `nccl`: rank 0 broadcasts a copy of the weights to all engines' workers.

`prepare` copies the tensors on their device (the optimiser goes on changing the originals), takes
the checksum there and writes into the store what will be sent. `deliver` hands the copy on to a
thread:

    wait until every worker is ready -> broadcast -> wait for every answer -> compare checksums

with one deadline over all of it. Whatever goes wrong, the group is given up, because a collective
that one side has left cannot be mended; the next `prepare` forms another with the engines there are
then. Rank 0 alone does this: in a sharded trainer it is handed whole tensors.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from threading import Thread
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
DEADLINE_S = 120.0


class Sender(Protocol):
    """Rank 0's end of a collective group."""

    def send(self, tensors: Mapping[str, Tensor]) -> None:
        """Broadcast all tensors in order; returns when they have left."""
        ...

    def close(self) -> None: ...


class NcclPublisher:
    """`transport.WeightPublisher` by collective.

    `members` says which engines live now; `open_sender` opens rank 0's end of a group (vLLM's, or
    a stand-in). Needs room for the weights once more on the trainer's device.
    """

    def __init__(
        self,
        address: str,
        members: Callable[[], Sequence[EngineMember]],
        open_sender: Callable[[Group, float], Sender],
        deadline_s: float = DEADLINE_S,
    ) -> None:
        """`address`: this host's, as engines reach it."""
        self._address = address
        self._members = members
        self._open_sender = open_sender
        self._deadline_s = deadline_s
        self._meeting, self._port = Meeting.host(address)
        self._generation = 0
        self._group: Group | None = None
        self._sender: Sender | None = None
        self._prepared: dict[tuple[int, int], dict[str, Tensor]] = {}
        self._delivery: tuple[WeightVersion, Thread] | None = None
        self._failure: PosttrainError | None = None
        self._old_keys: list[str] = []

    def prepare(self, tensors: Mapping[str, Tensor], version: int, attempt: int) -> WeightVersion:
        """Copy the tensors, and form another group where engines have joined or left.

        Raises, once, what the last delivery raised; the next call begins with a new group.
        """
        self._finish_delivery()
        group = self._current_group()
        copies = {name: tensors[name].detach().clone() for name in sorted(tensors)}
        checksum = device_checksum(copies)
        shipment = Shipment(
            attempt,
            version,
            checksum,
            tuple(copies),
            tuple(str(copy.dtype).removeprefix("torch.") for copy in copies.values()),
            tuple(tuple(copy.shape) for copy in copies.values()),
        )
        self._meeting.tell(f"sync/{group.generation}/{attempt}-{version}", shipment.to_json())
        self._prepared = {(attempt, version): copies}
        num_bytes = sum(copy.numel() * copy.element_size() for copy in copies.values())
        location = location_of(self._address, self._port, group.generation)
        return WeightVersion(attempt, version, checksum, location, num_bytes)

    def deliver(self, version: WeightVersion) -> None:
        """Send the prepared version in a thread of its own."""
        self._finish_delivery()
        copies = self._prepared.pop((version.attempt, version.version))
        thread = Thread(
            target=self._deliver, args=(version, copies), name="weight delivery", daemon=True
        )
        self._delivery = (version, thread)
        thread.start()

    def release(self, version: WeightVersion) -> None:
        """Wait until its delivery is over (the deadline bounds that) and raise what it raised."""
        if self._delivery is not None and self._delivery[0] == version:
            self._finish_delivery()
        keys, self._old_keys = self._old_keys, []
        self._meeting.forget(keys)

    def close(self) -> None:
        """Leave the group; the store goes with this object."""
        self._give_up()

    def _current_group(self) -> Group:
        members = tuple(self._members())
        if not members:
            raise StageFailed("no engine is there to take weights")
        if self._group is None or self._group.members != members:
            self._give_up()
            self._generation += 1
            port = _free_port(self._address)
            self._group = Group(self._generation, self._address, port, members)
            self._meeting.tell(f"group/{self._generation}", self._group.to_json())
        return self._group

    def _deliver(self, version: WeightVersion, copies: dict[str, Tensor]) -> None:
        try:
            self._send(version, copies, Deadline(self._deadline_s))
        except PosttrainError as error:
            self._fail(error)
        except Exception as error:  # torch, NCCL and vLLM raise whatever they like
            failure = StageFailed(
                f"trainer rank 0 could not send version {version.version}: {error!r}",
                place=version.location,
            )
            failure.__cause__ = error
            self._fail(failure)

    def _send(self, version: WeightVersion, copies: dict[str, Tensor], deadline: Deadline) -> None:
        group = self._group
        assert group is not None
        workers = group.workers()
        key = f"{group.generation}/{version.attempt}-{version.version}"
        wanted = f"take version {version.version}"
        if self._sender is None:
            joined = f"joined/{group.generation}"
            self._meeting.gather(joined, workers, "join the weight transfer", deadline)
            self._sender = self._bounded(
                deadline, wanted, lambda: self._open_sender(group, deadline.left_s)
            )
        sender = self._sender
        self._meeting.gather(f"ready/{key}", workers, wanted, deadline)
        self._bounded(deadline, wanted, lambda: sender.send(copies))
        answers = self._meeting.gather(f"answer/{key}", workers, wanted, deadline)
        for (engine, _), text in answers.items():
            require_acknowledged(version, read_answer(text, version, engine), engine)
        ends = [f"{engine}/{worker}" for engine, worker in workers]
        self._old_keys += [f"sync/{key}"]
        self._old_keys += [f"{kind}/{key}/{end}" for kind in ("ready", "answer") for end in ends]

    def _bounded(self, deadline: Deadline, wanted: str, call: Callable[[], T]) -> T:
        members = [member.name for member in self._group.members] if self._group else []
        return within(
            deadline,
            call,
            lambda: DeadlineExceeded(
                f"trainer rank 0 waited {deadline.seconds:g} s inside a collective for "
                f"{listed(members)} to {wanted}; all of them had begun it",
                help="one of them died or lost its network; the version is published again to "
                "those that are left",
            ),
        )

    def _fail(self, error: PosttrainError) -> None:
        self._failure = error
        self._give_up()

    def _finish_delivery(self) -> None:
        if self._delivery is not None:
            self._delivery[1].join()
            self._delivery = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _give_up(self) -> None:
        sender, self._sender, self._group = self._sender, None, None
        if sender is not None:
            sender.close()


def _free_port(address: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]
