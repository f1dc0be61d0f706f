"""What the machine says (assignments) and what a commit keeps of it, as records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Assignment:
    """Samples of one draw for one engine. Example: Assignment("engine-0", 17, (0, 1, 2, 3), True)

    `is_new`: the draw begins with it. Further pieces of a group that is spread follow at once or as
    places come free, and samples of a lost engine come again: those are not new.
    """

    engine: str
    draw: int
    samples: tuple[int, ...]
    is_new: bool
    start_version: int = 0  # the group's, as estimated now


@dataclass(frozen=True, slots=True)
class MachineState:
    """What the machine goes on from; `loop.ledger` keeps it. Engines are no part of it: they join
    again.
    """

    next_draw: int = 0  # the first never assigned
    num_accepted: int = 0  # ever, trained ones included
    next_step: int = 0  # the first never served
    unfinished: tuple[tuple[int, int], ...] = ()  # (draw, start version) under way
    buffered: tuple[tuple[int, int], ...] = ()  # (draw, start version) accepted, first first
    served: Mapping[int, tuple[int, ...]] = field(default_factory=dict)  # step -> draws, sorted
    num_dropped: int = 0
    num_filtered: int = 0
    num_refilled: int = 0  # of the filtered, those since the last batch was served first
