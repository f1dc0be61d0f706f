"""What the coordinator knows of each engine: its weights, its mail, and whether it is alive.

    EngineReport --take_in--> Link --directive--> Directive

One Link per engine process. Mail that an engine has not confirmed is sent again with the next
directive, so a lost answer costs nothing. Nothing here waits; the coordinator does.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from posttrain.loop.pulse import Pulse
from posttrain.types import (
    Directive,
    EngineReport,
    EngineStats,
    Lane,
    SyncReport,
    WeightVersion,
    Work,
)


@dataclass(slots=True)
class Totals:
    """What engines did over some time."""

    busy_s: float = 0.0
    tokens: int = 0

    def add(self, stats: EngineStats) -> None:
        self.busy_s += stats.busy_s
        self.tokens += stats.tokens


@dataclass(slots=True)
class Link:
    """One engine's process. Times are those of the event loop, in seconds."""

    name: str
    process: str
    seen_at: float  # the last report
    progressed_at: float  # the last time that it was idle or had made tokens
    acknowledged: WeightVersion | None = None
    told: WeightVersion | None = None  # the newest weights it was asked to take
    told_at: float = 0.0  # since when it has been behind what it was told
    stats: EngineStats = field(default_factory=EngineStats)
    totals: Totals = field(default_factory=Totals)
    works: list[Work] = field(default_factory=list)
    aborts: list[tuple[Lane, int]] = field(default_factory=list)
    journal: int = 0  # the newest number it was told
    over: bool = False  # it was lost, or the stage ended
    polls: int = 0  # counts its calls: an older one that still waits gives way to a newer one
    waiting: int = 0  # calls of it that wait for news: it is not silent, we are
    news: Pulse = field(default_factory=Pulse)
    _number: int = 0
    _unconfirmed: list[Directive] = field(default_factory=list)

    def confirm(self, received: int) -> None:
        """Forget the mail that has arrived; what did not arrive goes out again."""
        lost = [directive for directive in self._unconfirmed if directive.number > received]
        self._unconfirmed = []
        for directive in lost:
            self.works[:0] = directive.work
            self.aborts[:0] = directive.abort
            self.journal = min(self.journal, directive.journal - 1)
            if directive.weights is not None:
                self.told = None

    def unwanted(self, lane: Lane, draw: int) -> None:
        """Nobody wants this draw any more: not what it runs of it, nor what was on its way."""
        self.works = [work for work in self.works if (work.lane, work.draw) != (lane, draw)]
        self.aborts.append((lane, draw))
        self.news.fire()

    def is_behind(self, published: WeightVersion) -> bool:
        """Whether it computes with older weights, or with others of the same number.

        An engine that is ahead of a restarted trainer keeps what it has until the trainer is there
        again: it generates nothing that the surviving history will not have.
        """
        have = self.acknowledged
        if have is None or have.version < published.version:
            return True
        return have.version == published.version and have.checksum != published.checksum

    def take_mail(self, published: WeightVersion | None, journal: int) -> Directive | None:
        """What the engine has to be told now; None: nothing."""
        weights = None
        if published is not None and published != self.told and self.is_behind(published):
            weights = published
        if not (self.works or self.aborts or weights or journal > self.journal or self.over):
            return None
        self._number += 1
        directive = Directive(
            number=self._number,
            work=tuple(self.works),
            weights=weights,
            abort=tuple(self.aborts),
            journal=journal,
            end=self.over,
        )
        self.works.clear()
        self.aborts.clear()
        self.journal = journal
        if weights is not None:
            told = self.told
            if told is None or told.attempt != weights.attempt or not self.is_behind(told):
                self.told_at = asyncio.get_running_loop().time()
            self.told = weights
        self._unconfirmed.append(directive)
        return directive

    def silence(self) -> Directive:
        """An answer without news: the engine reports again. It has no number, for it confirms
        nothing: other mail may have gone out to a newer call, and not have arrived.
        """
        return Directive(journal=self.journal)


class Fleet:
    """All links of one stage, and what was published to them."""

    def __init__(self, journal: int = 0) -> None:
        """`journal`: the number to begin with; higher than any that an engine may have been told
        by an earlier coordinator.
        """
        self.links: dict[str, Link] = {}
        self.published: WeightVersion | None = None
        self.journal = journal
        self.syncs: dict[int, list[SyncReport]] = {}  # by version, of the last few
        self._retired = Totals()
        self._given_up: set[tuple[str, str]] = set()  # (engine, process)

    def is_given_up(self, report: EngineReport) -> bool:
        """Whether the report is of a process whose work was handed to others already."""
        return (report.engine, report.process) in self._given_up

    def take_in(self, report: EngineReport, now: float) -> Link:
        """The engine's link, with what the report says of the engine itself put down."""
        link = self.links.get(report.engine)
        if link is None or link.process != report.process:
            link = Link(report.engine, report.process, now, now, journal=self.journal)
            self.links[report.engine] = link
        link.seen_at = now
        link.confirm(report.received)
        if report.stats.tokens > 0 or report.stats.running == 0:
            link.progressed_at = now
        link.totals.add(report.stats)
        link.stats = report.stats
        if report.sync is not None:
            self.syncs.setdefault(report.sync.version, []).append(report.sync)
        if report.acknowledged is not None:
            link.acknowledged = report.acknowledged
        return link

    def remove(self, name: str) -> Link | None:
        """Forget an engine; a call of it that still waits is told that it is over."""
        link = self.links.pop(name, None)
        if link is not None:
            self._given_up.add((link.name, link.process))
            link.over = True
            link.news.fire()
            self._retired.busy_s += link.totals.busy_s
            self._retired.tokens += link.totals.tokens
        return link

    def wake(self) -> None:
        for link in self.links.values():
            link.news.fire()

    def live(self) -> list[Link]:
        """Engines that have weights."""
        return [link for link in self.links.values() if link.acknowledged is not None]

    def exactly_at(self, published: WeightVersion) -> list[Link]:
        """Live engines that compute with these very weights, and not with later ones of a trainer
        that died.
        """
        return [
            link
            for link in self.live()
            if link.acknowledged is not None
            and link.acknowledged.version == published.version
            and not link.is_behind(published)
        ]

    def behind(self, published: WeightVersion) -> list[Link]:
        """Live engines that do not compute with a publication yet. An engine that only joins is not
        waited for: it has no work.
        """
        return [link for link in self.live() if link.is_behind(published)]

    def take_totals(self) -> Totals:
        """What all engines did since the last call."""
        total, self._retired = self._retired, Totals()
        for link in self.links.values():
            total.busy_s += link.totals.busy_s
            total.tokens += link.totals.tokens
            link.totals = Totals()
        return total

    def sync_of(self, version: int) -> SyncReport | None:
        """The slowest of the swaps to `version`; None where no engine has told of one."""
        reports = self.syncs.get(version, [])
        if not reports:
            return None
        return SyncReport(
            version=version,
            checksums_agree=all(report.checksums_agree for report in reports),
            sync_ms=max(report.sync_ms for report in reports),
            stall_ms=max(report.stall_ms for report in reports),
        )

    def take_sync(self, version: int) -> SyncReport | None:
        """The same, and forget it and all before."""
        report = self.sync_of(version)
        for old in [each for each in self.syncs if each <= version]:
            del self.syncs[old]
        return report
