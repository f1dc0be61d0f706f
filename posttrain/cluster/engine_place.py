"""Where an engine runs, and whether weights can reach it there through shared memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from posttrain.errors import StageFailed


@dataclass(frozen=True, slots=True)
class EnginePlace:
    """Example: EnginePlace("node-7", (3,), "2f0c…/26")"""

    host: str = ""
    cores: tuple[int, ...] = ()  # of that host, those that it has for itself
    memory: str = ""  # shared_directory.memory_name() there


class ShmAcrossHosts(StageFailed):
    """Weights by shared memory cannot reach an engine where it is."""

    code = "shm-across-hosts"


def require_one_memory(here: EnginePlace, engines: Sequence[EnginePlace], who: str) -> None:
    """Raise ShmAcrossHosts where an engine has other shared memory than `who`, which is `here`."""
    apart = sorted({place.host for place in engines if place.memory != here.memory})
    if not apart:
        return
    raise ShmAcrossHosts(
        f"weights travel through shared memory, and engines on {', '.join(apart)} have another "
        f"than {who} on {here.host}",
        help="one host with room for engines and trainers together; or weight_sync: nccl, which "
        "needs GPUs",
    )
