"""An engine worker's side of `nccl`: join the group, receive into memory of its own, compare.

What arrives is held beside the model and is compared with what was published before any of it is
loaded: a transfer that is refused leaves the old weights in use. That costs room for the weights
once more on the engine's device (of its own share and those of its fellow workers: each worker
receives whole tensors and loads its share of them).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from posttrain.errors import DeadlineExceeded, WeightsDiffer, WeightsGone
from posttrain.types import WeightVersion
from posttrain.weight_sync.deadlines import Deadline, within
from posttrain.weight_sync.device_checksum import device_checksum
from posttrain.weight_sync.nccl_meeting import (
    Group,
    Meeting,
    Shipment,
    answer_of,
    parse_location,
    refusal_of,
)
from posttrain.weight_sync.transport import listed, require_checksum

if TYPE_CHECKING:
    from torch import Tensor


class Receiver(Protocol):
    """One worker's end of a collective group."""

    def receive(self, shipment: Shipment) -> dict[str, Tensor]:
        """All tensors of a shipment, in memory that nobody else writes to."""
        ...

    def close(self) -> None: ...


@dataclass(slots=True)
class _Membership:
    place: tuple[str, int]  # host and port of the store
    meeting: Meeting
    group: Group | None = None
    receiver: Receiver | None = None


class NcclReceiver:
    """Receives version after version; joins another group whenever the generation changes.

    `open_receiver(group, first_rank, seconds)` opens this worker's end (vLLM's, or a stand-in);
    `expected` raises where a shipment's names and shapes are not the model's.
    """

    def __init__(
        self,
        engine: str,
        worker: int,
        open_receiver: Callable[[Group, int, float], Receiver],
        expected: Callable[[Mapping[str, tuple[int, ...]], str], None] = lambda shapes, place: None,
    ) -> None:
        self._engine = engine
        self._worker = worker
        self._open_receiver = open_receiver
        self._expected = expected
        self._membership: _Membership | None = None

    def receive(self, version: WeightVersion, deadline_s: float) -> dict[str, Tensor]:
        """The tensors of `version`, compared with what was published.

        Raises DeadlineExceeded where the trainer does not send in time and WeightsGone where it
        sends to others (the group is left then), WeightsDiffer where something else arrives than
        was published.
        """
        deadline = Deadline(deadline_s)
        try:
            return self._receive(version, deadline)
        except (DeadlineExceeded, WeightsGone):
            self.close()
            raise

    def close(self) -> None:
        """Leave the group. May be called twice."""
        membership, self._membership = self._membership, None
        if membership is not None and membership.receiver is not None:
            membership.receiver.close()

    def _receive(self, version: WeightVersion, deadline: Deadline) -> dict[str, Tensor]:
        membership = self._join(version, deadline)
        group, meeting, receiver = membership.group, membership.meeting, membership.receiver
        assert group is not None and receiver is not None
        key = f"{group.generation}/{version.attempt}-{version.version}"
        end = f"{key}/{self._engine}/{self._worker}"
        wanted = f"send version {version.version}"
        text = meeting.read(f"sync/{key}", group.generation, self._who, wanted, deadline)
        shipment = Shipment.from_json(text)
        meeting.tell(f"ready/{end}", "1")
        meeting.read(f"send/{key}", group.generation, self._who, wanted, deadline)
        tensors = within(
            deadline, lambda: receiver.receive(shipment), lambda: self._late(deadline, wanted)
        )
        try:
            received = self._compare(version, shipment, tensors)
        except WeightsDiffer as error:
            meeting.tell(f"answer/{end}", refusal_of(error))
            raise
        meeting.tell(f"answer/{end}", answer_of(received))
        return tensors

    def _join(self, version: WeightVersion, deadline: Deadline) -> _Membership:
        host, port, generation = parse_location(version.location)
        membership = self._membership
        if membership is not None and membership.group is not None:
            if (membership.place, membership.group.generation) == ((host, port), generation):
                return membership
            self.close()
        meeting = Meeting.visit(host, port, self._who, deadline)
        wanted = f"form group {generation}"
        text = meeting.read(f"group/{generation}", generation, self._who, wanted, deadline)
        group = Group.from_json(text)
        rank = group.first_rank(self._engine)
        meeting.tell(f"joined/{generation}/{self._engine}/{self._worker}", "1")
        meeting.read(f"open/{generation}", generation, self._who, wanted, deadline)
        receiver = within(
            deadline,
            lambda: self._open_receiver(group, rank, deadline.left_s),
            lambda: self._alone(deadline, group),
        )
        self._membership = _Membership((host, port), meeting, group, receiver)
        return self._membership

    def _compare(
        self, version: WeightVersion, shipment: Shipment, tensors: Mapping[str, Tensor]
    ) -> WeightVersion:
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        self._expected(shapes, version.location)
        digest = device_checksum(tensors)
        require_checksum(self._engine, version, digest)
        return WeightVersion(shipment.attempt, shipment.version, digest, version.location)

    def _late(self, deadline: Deadline, wanted: str) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"{self._who} waited {deadline.seconds:g} s for trainer rank 0 to {wanted}; the "
            "collective had begun",
            help="the trainer or another engine of the group died meanwhile; an engine that is "
            "caught in a collective is replaced",
        )

    def _alone(self, deadline: Deadline, group: Group) -> DeadlineExceeded:
        members = listed([member.name for member in group.members])
        return DeadlineExceeded(
            f"{self._who} waited {deadline.seconds:g} s for trainer rank 0 and all of {members} to "
            f"join weight-transfer group {group.generation}; not all did",
            help="the trainer's log names who is missing; this engine is replaced",
        )

    @property
    def _who(self) -> str:
        return f"engine {self._engine}"
