"""The processes that train one model together, and what they tell one another.

Two sorts of traffic: gradients and weights go through torch's own collectives (FSDP2). What stands
here is the small talk around it: the first rank alone asks the coordinator, and tells the others
what it heard; numbers are summed. It has a gloo group of its own, so that it neither waits behind
a GPU's stream nor shares its deadline, and each wait says who waited for whom.

No rank may go its own way: an error of one is raised by all (`from_first`, `together`), or the
others would wait for it inside the next collective.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from posttrain.errors import DeadlineExceeded, PosttrainError, RankLost, StageFailed

T = TypeVar("T")
DEADLINE_S = 3 * 3600.0  # longer than the first rank's own deadlines, which name culprits closer


class Ranks:
    """This process' place in the group. `Ranks()` is the group of one, and needs no torch group."""

    def __init__(
        self, rank: int = 0, num: int = 1, group: Any = None, deadline_s: float = DEADLINE_S
    ) -> None:
        self.rank = rank
        self.num = num
        self._group = group
        self._deadline_s = deadline_s

    @classmethod
    def join(cls, deadline_s: float = DEADLINE_S) -> Ranks:
        """All processes of torch's default group, which must exist already; else a group of one.

        Collective: every rank calls it at the same point.
        """
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return cls()
        group = dist.new_group(backend="gloo", timeout=timedelta(seconds=deadline_s))
        return cls(dist.get_rank(), dist.get_world_size(), group, deadline_s)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def from_first(self, call: Callable[[], T], what: str, deadline_s: float | None = None) -> T:
        """What `call` gives on the first rank, on every rank; an error is raised on every rank."""
        if self.num == 1:
            return call()
        result: Any = None
        error: Exception | None = None
        if self.is_first:
            try:
                result = call()
            except Exception as raised:  # handed on, then raised below
                error = raised
        told = self.broadcast_object((result, _ours(error)), what, deadline_s=deadline_s)
        if error is not None:
            raise error
        if told[1] is not None:
            raise told[1]
        return told[0]

    def together(self, call: Callable[[], T], what: str, deadline_s: float | None = None) -> T:
        """Every rank's own result; where one fails, its error is raised on every rank."""
        if self.num == 1:
            return call()
        result: Any = None
        error: Exception | None = None
        try:
            result = call()
        except Exception as raised:  # handed on, then raised below
            error = raised
        failed = torch.zeros(self.num)
        failed[self.rank] = float(error is not None)
        failed = self.all_reduce_sum(failed, what, deadline_s)
        if not failed.any():
            return result
        told = self.broadcast_object(_ours(error), what, int(failed.argmax()), deadline_s)
        assert told is not None
        raise error or told

    def broadcast_object(
        self, value: T, what: str, source: int = 0, deadline_s: float | None = None
    ) -> T:
        """`value` of rank `source`, on every rank. It has to survive pickling."""
        if self.num == 1:
            return value
        whom = f"rank {source}"
        content = bytearray(pickle.dumps(value)) if self.rank == source else bytearray()
        size = torch.tensor([len(content)])
        self._wait(dist.broadcast(size, source, self._group, True), whom, what, deadline_s)
        if self.rank != source:
            content = bytearray(int(size))
        buffer = torch.frombuffer(content, dtype=torch.uint8)
        self._wait(dist.broadcast(buffer, source, self._group, True), whom, what, deadline_s)
        return value if self.rank == source else pickle.loads(content)

    def all_reduce_sum(self, values: Tensor, what: str, deadline_s: float | None = None) -> Tensor:
        """Sum over the ranks of a CPU tensor; a new tensor, the same on every rank."""
        return self._all_reduce(values, dist.ReduceOp.SUM, what, deadline_s)

    def all_reduce_max(self, values: Tensor, what: str, deadline_s: float | None = None) -> Tensor:
        """Largest over the ranks, entry by entry; NaN may be lost."""
        return self._all_reduce(values, dist.ReduceOp.MAX, what, deadline_s)

    def _all_reduce(
        self, values: Tensor, operation: Any, what: str, deadline_s: float | None
    ) -> Tensor:
        if self.num == 1:
            return values
        total = values.clone()
        work = dist.all_reduce(total, operation, self._group, True)
        self._wait(work, "the other ranks", what, deadline_s)
        return total

    def _wait(self, work: Any, whom: str, what: str, deadline_s: float | None) -> None:
        limit_s = deadline_s or self._deadline_s
        began = time.monotonic()
        try:
            work.wait(timedelta(seconds=limit_s))
        except RuntimeError as error:
            waiting = f"rank {self.rank} waited for {whom} ({what})"
            if time.monotonic() - began >= limit_s:
                raise DeadlineExceeded(
                    f"{waiting} for {limit_s:.0f} s",
                    help="its log is in the run folder's logs/; `posttrain resume` goes on from "
                    "the last checkpoint",
                ) from error
            raise RankLost(f"{waiting}, whose process ended") from error


def _ours(error: Exception | None) -> PosttrainError | None:
    """As the other ranks raise it: one of ours as it is, anything else by its first line."""
    if error is None or isinstance(error, PosttrainError):
        return error
    lines = str(error).strip().splitlines()[:1]
    return StageFailed(": ".join((type(error).__name__, *lines)))
