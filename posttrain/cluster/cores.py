"""Cores that engines have for themselves, on hosts where they compute on the CPU.

A rollout engine is one thread that never rests. Where it shares its core with whatever else a run
has (a dozen small processes), it gets 85 % of one; on a core of its own, all of it. So each engine
takes a core, and trainers of its stage keep off it. The small processes need no rule: the system
puts them where there is room.

A core is taken by a name that only one process of a host can have (an abstract Unix socket's), by
all runs together: two engines never sit on one core while another is free, and the name is free
again when its process ends, however that ends. One core always stays for others: where none would,
the engine takes none and runs wherever there is room.
"""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Collection

NAMES = "posttrain/core/"
_TRIES, _PAUSE_S = 3, (0.02, 0.2)
_held: list[socket.socket] = []  # a name lives as long as its socket


def take_cores(count: int) -> tuple[int, ...]:
    """Take `count` cores for this process, for its life; none where that would leave no other.

    Looks only at cores that the process may use. On systems without affinity there are none.
    """
    if not hasattr(os, "sched_getaffinity"):
        return ()
    for _ in range(_TRIES):
        chosen = _take_now(count)
        if chosen:
            break
        time.sleep(random.uniform(*_PAUSE_S))  # another may only have looked, as this one did
    return chosen


def _take_now(count: int) -> tuple[int, ...]:
    allowed = sorted(os.sched_getaffinity(0), reverse=True)  # the first ones serve interrupts
    free = {core: name for core in allowed if (name := _taken(core)) is not None}
    chosen = list(free)[:count] if len(free) > count else []
    for core, name in free.items():
        if core in chosen:
            _held.append(name)
        else:
            name.close()
    return tuple(chosen)


def keep_off(cores: Collection[int]) -> None:
    """Run this thread, and what it starts, on other cores than these, where there are any."""
    if not cores or not hasattr(os, "sched_getaffinity"):
        return
    others = os.sched_getaffinity(0) - set(cores)
    if others:
        os.sched_setaffinity(0, others)


def _taken(core: int) -> socket.socket | None:
    """The core's name, now this process's; None where it has an owner, or none can be had here."""
    name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        name.bind(f"\0{NAMES}{core}")
    except OSError:
        name.close()
        return None
    return name
