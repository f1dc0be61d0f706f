"""Where trainer and engines agree before and after a collective transfer: a small key-value store.

The weights travel by collective, which cannot say who is missing, which version is in flight or
what arrived. So trainer rank 0 keeps a store (torch's TCPStore) beside it:

    group/<g>                             trainer: who is in group g, and where its ranks meet
    joined/<g>/<engine>/<worker>          worker: about to join the group
    open/<g>                              trainer: all are there, the ranks may meet
    sync/<g>/<attempt>-<version>          trainer: checksum, names, shapes, number formats, in order
    ready/<g>/<a>-<v>/<engine>/<worker>   worker: about to receive
    send/<g>/<a>-<v>                      trainer: all are ready, the collective begins
    answer/<g>/<a>-<v>/<engine>/<worker>  worker: version and checksum that arrived, or an error
    over/<g>                              trainer: nothing comes by group g any more

A collective begins only when every worker is ready, so an engine that is gone is noticed, and
named, before anybody waits inside a collective for it. A group never changes: when an engine joins
or is lost, the version is sent again by another one with the next number, its generation.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from time import sleep
from typing import Any

from posttrain.errors import DeadlineExceeded, PosttrainError, WeightsDiffer, WeightsGone
from posttrain.types import WeightVersion
from posttrain.weight_sync.deadlines import Deadline
from posttrain.weight_sync.transport import NCCL_PREFIX, EngineMember, listed, waited_too_long

VISIT_S = 20.0  # to reach the trainer's store
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.002, 0.1


@dataclass(frozen=True, slots=True)
class Group:
    """Who takes part in one collective. The trainer is rank 0, engines' workers come after it.

    Example: Group(3, "10.0.0.1", 40123, (EngineMember("0"), EngineMember("5", 2)))
    """

    generation: int
    address: str  # where the ranks meet
    port: int
    members: tuple[EngineMember, ...]

    @property
    def world_size(self) -> int:
        return 1 + sum(member.num_workers for member in self.members)

    def first_rank(self, engine: str) -> int:
        """Rank of the engine's first worker. Raises WeightsGone where it is not a member."""
        rank = 1
        for member in self.members:
            if member.name == engine:
                return rank
            rank += member.num_workers
        raise WeightsGone(
            f"engine {engine} is not in weight-transfer group {self.generation}: it holds "
            f"{listed([member.name for member in self.members])}",
            help="the version is sent again to a group that it is in",
        )

    def workers(self) -> list[tuple[str, int]]:
        """(engine, number of its worker) of everybody but the trainer, by rank."""
        return [(m.name, worker) for m in self.members for worker in range(m.num_workers)]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str | bytes) -> Group:
        raw = json.loads(text)
        members = tuple(EngineMember(**member) for member in raw["members"])
        return Group(raw["generation"], raw["address"], raw["port"], members)


@dataclass(frozen=True, slots=True)
class Shipment:
    """What one transfer holds; the tensors are sent in this order."""

    attempt: int
    version: int
    checksum: str
    names: tuple[str, ...]
    dtypes: tuple[str, ...]  # "bfloat16", ...
    shapes: tuple[tuple[int, ...], ...]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str | bytes) -> Shipment:
        raw = json.loads(text)
        shapes = tuple(tuple(shape) for shape in raw["shapes"])
        return Shipment(
            raw["attempt"],
            raw["version"],
            raw["checksum"],
            tuple(raw["names"]),
            tuple(raw["dtypes"]),
            shapes,
        )


def location_of(host: str, port: int, generation: int) -> str:
    """`nccl://10.0.0.1:29500/3`."""
    return f"{NCCL_PREFIX}{host}:{port}/{generation}"


def parse_location(location: str) -> tuple[str, int, int]:
    """(host, port of the store, generation) of `nccl://10.0.0.1:29500/3`."""
    try:
        meeting, generation = location.removeprefix(NCCL_PREFIX).rsplit("/", 1)
        host, port = meeting.rsplit(":", 1)
        return host, int(port), int(generation)
    except ValueError as error:
        raise WeightsDiffer(
            "no place to receive weights from: expected nccl://HOST:PORT/GENERATION", place=location
        ) from error


class Meeting:
    """The store, as either side uses it. `store` is a torch.distributed.Store."""

    def __init__(self, store: Any) -> None:
        self._store = store

    @staticmethod
    def host(address: str) -> tuple[Meeting, int]:
        """The trainer's store and its port; whoever knows both can reach it."""
        from torch.distributed import TCPStore

        # A socket of our own: TCPStore's would listen on every network of the host.
        listening = socket.create_server((address, 0))
        port = listening.getsockname()[1]
        store = TCPStore(
            address,
            port,
            is_master=True,
            wait_for_workers=False,
            master_listen_fd=listening.detach(),
        )
        return Meeting(store), port

    @staticmethod
    def visit(host: str, port: int, who: str, deadline: Deadline) -> Meeting:
        """An engine's way to it. Raises WeightsGone where nobody answers."""
        from torch.distributed import DistError, TCPStore

        try:
            left = timedelta(seconds=min(VISIT_S, max(1.0, deadline.left_s)))
            return Meeting(TCPStore(host, port, is_master=False, timeout=left))
        except DistError as error:
            raise WeightsGone(
                f"{who} waited {left.total_seconds():g} s for trainer rank 0 at {host}:{port} to "
                "answer; it does not",
                help="the trainer is gone or out of reach; check the addresses of both hosts",
            ) from error

    def tell(self, key: str, text: str) -> None:
        """Raises WeightsGone where the trainer, and with it the store, is gone."""
        from torch.distributed import DistError

        try:
            self._store.set(key, text)
        except DistError as error:
            raise WeightsGone(f"trainer rank 0 went away before it was told {key}") from error

    def read(self, key: str, generation: int, who: str, wanted: str, deadline: Deadline) -> bytes:
        """What the trainer wrote for a group. Raises WeightsGone where it has given the group up or
        is gone itself, DeadlineExceeded where it does nothing in time.
        """
        from torch.distributed import DistError

        def watch() -> None:
            if self._store.check([f"over/{generation}"]):
                raise WeightsGone(
                    f"weight-transfer group {generation} was given up while {who} waited for "
                    f"trainer rank 0 to {wanted}",
                    help="the version is sent again by the next group",
                )

        try:
            if self._missing([key], deadline, watch):
                raise DeadlineExceeded(
                    f"{who} waited {deadline.seconds:g} s for trainer rank 0 to {wanted}; it "
                    "answers, but has not",
                    help="the trainer's log says what it does instead",
                )
            return self._store.get(key)
        except DistError as error:
            raise WeightsGone(
                f"trainer rank 0 went away while {who} waited for it to {wanted}",
                help="the trainer that follows it publishes its own",
            ) from error

    def gather(
        self,
        prefix: str,
        workers: Sequence[tuple[str, int]],
        wanted: str,
        deadline: Deadline,
        watch: Callable[[], None] = lambda: None,
        late: Callable[[set[str]], None] = lambda engines: None,
    ) -> dict[tuple[str, int], bytes]:
        """`<prefix>/<engine>/<worker>` of all workers; `watch` may raise meanwhile, and `late` is
        told which engines have not written theirs in time.

        Raises DeadlineExceeded with those who have not written theirs, and those who have.
        """
        keys = {f"{prefix}/{engine}/{worker}": (engine, worker) for engine, worker in workers}
        missing = self._missing(list(keys), deadline, watch)
        if missing:
            absent = {keys[key][0] for key in missing}
            present = {engine for engine, _ in workers} - absent
            late(absent)
            raise waited_too_long(
                "trainer rank 0", deadline.seconds, wanted, sorted(absent), sorted(present)
            )
        return {worker: self._store.get(key) for key, worker in keys.items()}

    def forget(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._store.delete_key(key)

    def _missing(self, keys: list[str], deadline: Deadline, watch: Callable[[], None]) -> list[str]:
        """The keys that nobody has written when the time is over.

        They are asked for again and again: of a wait that ends in vain torch tells the log, each
        time.
        """
        pause_s = FIRST_PAUSE_S
        while True:
            watch()
            keys = [key for key in keys if not self._store.check([key])]
            if not keys or deadline.left_s == 0:
                return keys
            sleep(min(pause_s, deadline.left_s))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def answer_of(received: WeightVersion) -> str:
    """What a worker writes when a transfer has arrived."""
    fields = ("attempt", "version", "checksum")
    return json.dumps({field: getattr(received, field) for field in fields})


def refusal_of(error: BaseException) -> str:
    """What a worker writes instead where it does not take the transfer."""
    message = error.message if isinstance(error, PosttrainError) else repr(error)
    return json.dumps({"error": message})


def read_answer(text: bytes, published: WeightVersion, engine: str) -> WeightVersion:
    """The version that a worker says it received. Raises WeightsDiffer where it refused."""
    raw: Mapping[str, Any] = json.loads(text)
    if "error" in raw:
        raise WeightsDiffer(
            f"engine {engine} refused version {published.version}: {raw['error']}",
            place=published.location,
            help="it goes on with the weights it had",
        )
    return WeightVersion(raw["attempt"], raw["version"], raw["checksum"], published.location)
