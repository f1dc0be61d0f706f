"""One protocol for every way that weights may travel from the trainer to the engines.

    trainer rank 0                                      each engine
    prepare(tensors, version, attempt) -> WeightVersion
    [the coordinator announces it] ------------------->  receive, compare checksum and version
    deliver(version)  ................................>  (nccl: while engines receive)
    [every engine has acknowledged] <------------------  swap between two steps, acknowledge
    release(version)

`shm` does its work in `prepare`: a file that engines of the same host map whenever they like.
`nccl` sends in `deliver`: a collective that all engines take part in. Which one a version travels
by stands in its `location`: `/dev/shm/…/0-24.weights`, or `nccl://10.0.0.1:29500/3`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, Protocol

from posttrain.errors import DeadlineExceeded, WeightsDiffer
from posttrain.types import WeightVersion

if TYPE_CHECKING:
    from torch import Tensor

Scheme = Literal["shm", "nccl"]
NCCL_PREFIX = "nccl://"
ANSWERED = "answered"


class WeightPublisher(Protocol):
    """The trainer's side of one transport. Calls come from one thread, in the order above."""

    def prepare(self, tensors: Mapping[str, Tensor], version: int, attempt: int) -> WeightVersion:
        """Make a version ready and say where it is. The tensors may change afterwards."""
        ...

    def deliver(self, version: WeightVersion) -> None:
        """Start to send what was prepared; does not wait. Raises what the last delivery raised."""
        ...

    def release(self, version: WeightVersion) -> None:
        """Every engine computes with `version`: what is older may go away.

        Raises what its delivery raised: DeadlineExceeded, WeightsDiffer, StageFailed.
        """
        ...

    def close(self) -> None:
        """Give everything back. May be called twice."""
        ...


@dataclass(frozen=True, slots=True)
class EngineMember:
    """One engine as the transport counts it. Example: EngineMember("0", num_workers=2)"""

    name: str
    num_workers: int = 1  # processes that hold a share of its weights


def scheme_of(location: str) -> Scheme:
    """How a version at this location travels: `nccl://…` by collective, a path by shared memory."""
    return "nccl" if location.startswith(NCCL_PREFIX) else "shm"


def require_acknowledged(
    published: WeightVersion, answered: WeightVersion, engine: str = ""
) -> None:
    """Raise WeightsDiffer where an engine answers with other weights than were published to it."""
    facts = []
    if (published.attempt, published.version) != (answered.attempt, answered.version):
        facts.append(f"{_named(answered)}, the trainer published {_named(published)}")
    elif published.checksum != answered.checksum:
        facts.append(
            f"{_named(answered)} with checksum {answered.checksum[:8] or 'none'}, the trainer "
            f"published {published.checksum[:8]}"
        )
    if facts:
        raise WeightsDiffer(
            f"{f'engine {engine}' if engine else 'an engine'} answers with {facts[0]}",
            place=published.location,
            help="its answers are set aside; the engine is given the version again, or replaced",
        )


def require_checksum(engine: str, version: WeightVersion, received: str) -> None:
    """Raise WeightsDiffer where what an engine has received is not what was published. It has not
    touched its model by then.
    """
    if received == version.checksum:
        return
    raise WeightsDiffer(
        f"engine {engine} received checksum {received[:8]} for version {version.version}, the "
        f"trainer published {version.checksum[:8]}",
        place=version.location,
        help="publish the version again; the engine goes on with the weights it had",
    )


def waited_too_long(
    waiter: str, seconds: float, wanted: str, missing: Sequence[str], answered: Sequence[str]
) -> DeadlineExceeded:
    """The error of a wait that named engines did not end.

    Example: `trainer rank 0 waited 120 s for engine 5 to take version 42; engines 0-4 answered`
    """
    others = f"{listed(answered)} {ANSWERED}" if answered else f"nobody {ANSWERED}"
    return DeadlineExceeded(
        f"{waiter} waited {seconds:g} s for {listed(missing)} to {wanted}; {others}",
        help="look at the log of the engine named; one that is gone is replaced, and the version "
        "is published again",
    )


def listed(engines: Collection[str]) -> str:
    """`engine 5`, `engines 0-4`, `engines 0, 2, 7`: numbers in a row are drawn together."""
    names = sorted(set(engines), key=lambda name: (not name.isdigit(), name.zfill(12)))
    runs: list[list[str]] = []
    for before, name in pairwise(["", *names]):
        follows = before.isdigit() and name.isdigit() and int(name) == int(before) + 1
        if follows and runs:
            runs[-1].append(name)
        else:
            runs.append([name])
    parts = []
    for run in runs:
        parts += [f"{run[0]}-{run[-1]}"] if len(run) > 2 else run
    return f"engine{'' if len(names) == 1 else 's'} {', '.join(parts)}"


def _named(version: WeightVersion) -> str:
    started = f" of attempt {version.attempt}" if version.attempt else ""
    return f"version {version.version}{started}"
