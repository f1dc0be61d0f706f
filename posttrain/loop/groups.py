"""The groups under way: where each of their samples is, and which of them wait for an engine.

A sample runs on an engine, waits for one, or is done. Groups with waiting samples stand in a heap
by (start version, draw): the oldest start version is served first. An engine that can take a later
start version can take an older one too, so the first group without a place ends the search.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import islice

from posttrain.loop.engine_loads import Engine, EngineLoads


class Done:
    """Where a finished sample is: on no engine, and waiting for none."""


DONE = Done()
Pieces = list[tuple[Engine, tuple[int, ...]]]  # which samples of a group went to which engine


class Group:
    """A draw under way."""

    __slots__ = (
        "avoid",
        "draw",
        "is_queued",
        "lowest",
        "num_open",
        "num_waiting",
        "places",
        "start",
    )

    def __init__(self, draw: int, start: int, places: list[Engine | Done | None]) -> None:
        self.draw = draw
        self.start = start  # lowest version that an engine of it had acknowledged; may rise
        self.places = places  # one for each sample; None: it waits for an engine
        self.num_waiting = 0
        self.num_open = len(places)  # samples that are not finished
        self.lowest: int | None = None  # start version reported by a finished sample
        self.avoid: dict[int, str] | None = None  # sample -> the engine that failed to generate it
        self.is_queued = False  # whether the heap of waiting groups has an entry for it


class Groups:
    """The groups under way, by draw, in draw order."""

    def __init__(self, engines: EngineLoads, num_samples: int, begins_whole: bool = False) -> None:
        self._engines = engines
        self._begins_whole = begins_whole
        self._samples = tuple(range(num_samples))
        self._groups: dict[int, Group] = {}
        self._waiting: list[tuple[int, int]] = []  # heap of (start version, draw)

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[Group]:
        return iter(self._groups.values())

    def get(self, draw: int) -> Group | None:
        return self._groups.get(draw)

    @property
    def has_waiting(self) -> bool:
        """Whether `place_waiting` may have something to do."""
        return bool(self._waiting)

    def restore(self, draw: int, start: int) -> None:
        """A group that was under way before a restart: all its samples wait."""
        self._groups[draw] = group = Group(draw, start, [None] * len(self._samples))
        group.num_waiting = len(self._samples)
        self._queue(group)

    def remove(self, group: Group) -> None:
        """The group is over; what runs of it is nobody's any more."""
        if group.num_open:
            for sample, place in enumerate(group.places):
                if place is not DONE:
                    self.vacate(group, sample, DONE)
        del self._groups[group.draw]

    # -- giving samples to engines --------------------------------------------------------------

    def begin(self, draw: int) -> tuple[Group, Pieces] | None:
        """A new group, given to one engine or, where none has room for all of it, to several; what
        finds no place waits. None, and no group, where no engine has a free place; nor, with
        `begins_whole`, while none has room for all of it but one may get it.
        """
        engine = self._engines.freest()
        if engine is None:
            return None
        num = len(self._samples)
        if self._begins_whole and engine.num_free < num <= self._engines.largest:
            return None
        if engine.num_free >= num:
            group = Group(draw, engine.acknowledged or 0, [engine] * num)
            self._engines.give(engine, draw, num)
            pieces: Pieces = [(engine, self._samples)]
        else:
            group = Group(draw, 0, [None] * num)
            group.num_waiting = num
            pieces = self._place(group)
            group.start = min(engine.acknowledged or 0 for engine, _ in pieces)
        self._groups[draw] = group
        if group.num_waiting:
            self._queue(group)
        return group, pieces

    def place_waiting(self) -> list[tuple[Group, Pieces]]:
        """Give waiting samples to engines that have acknowledged their group's start version."""
        placed: list[tuple[Group, Pieces]] = []
        set_aside: list[Group] = []
        while self._waiting:
            group = self._groups.get(self._waiting[0][1])
            if group is not None and group.num_waiting:
                pieces = self._place(group)
                if pieces:
                    placed.append((group, pieces))
                if group.num_waiting and not group.avoid:
                    break
            heappop(self._waiting)
            if group is not None:
                group.is_queued = False
                if group.num_waiting:  # an engine it avoids may still serve the groups behind it
                    set_aside.append(group)
        for group in set_aside:
            self._queue(group)
        return placed

    def _place(self, group: Group) -> Pieces:
        pieces: Pieces = []
        while group.num_waiting:
            first = group.places.index(None)
            avoid = None
            if group.avoid and self._engines.num_acknowledged > 1:
                avoid = group.avoid.get(first)
            engine = self._engines.freest(group.start, avoid)
            if engine is None:
                break
            num = 1 if group.avoid else min(engine.num_free, group.num_waiting)
            waiting = (sample for sample in self._samples if group.places[sample] is None)
            samples = tuple(islice(waiting, num))
            for sample in samples:
                group.places[sample] = engine
            group.num_waiting -= num
            self._engines.give(engine, group.draw, num)
            pieces.append((engine, samples))
        return pieces

    def hold(self, engine: Engine, group: Group, sample: int) -> bool:
        """The engine runs this sample already. False: it does not wait, nor run there."""
        place = group.places[sample]
        if place is not None:
            return place is engine
        group.places[sample] = engine
        group.num_waiting -= 1
        self._engines.give(engine, group.draw, 1)
        return True

    # -- taking them back -----------------------------------------------------------------------

    def vacate(self, group: Group, sample: int, becomes: Done | None) -> None:
        """Take a sample from its engine, or from those that wait."""
        place = group.places[sample]
        if place is None:
            group.num_waiting -= 1
        elif isinstance(place, Engine):
            self._engines.take(place, group.draw)
        group.places[sample] = becomes
        if becomes is None:
            group.num_waiting += 1
            self._queue(group)

    def lost(self, engine: Engine) -> tuple[int, ...]:
        """What a lost engine had not finished waits for another. Returns the draws, sorted."""
        draws = tuple(sorted(engine.held))
        for draw in draws:
            group = self._groups[draw]
            group.places = [None if place is engine else place for place in group.places]
            group.num_waiting += engine.held[draw]
            self._queue(group)
        return draws

    def _queue(self, group: Group) -> None:
        if not group.is_queued:
            group.is_queued = True
            heappush(self._waiting, (group.start, group.draw))
