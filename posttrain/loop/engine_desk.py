"""What engines say, and what they are told: one call of an engine is a report and its answer.

    EngineReport --> Link, machine, groups --> assign --> Directive (work, weights, aborts)

An engine that falls silent, does not take weights, or answers with other weights than were
published is given up: others go on with its work, it is told to end, and whoever runs the engines
hears of it through `take_lost`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from posttrain.errors import EngineFailed, PosttrainError, WeightsDiffer
from posttrain.loop.failures import classify
from posttrain.loop.fleet import Fleet, Link
from posttrain.loop.group_desk import GroupDesk
from posttrain.loop.lifecycle import Lifecycle
from posttrain.loop.machine import Assignment, Machine
from posttrain.loop.numbers import Counts
from posttrain.loop.retention import JournalRetention
from posttrain.loop.settings import LoopSettings, draw_seed
from posttrain.loop.side_work import SideWork
from posttrain.loop.watch import late, other_weights
from posttrain.ports import Tracker
from posttrain.types import Directive, EngineReport, WeightVersion, Work

POLL_S = 5.0  # an engine without news is answered after this
SETTLE_S = 2.0  # a restarted coordinator waits so long for engines to report


@dataclass(slots=True)
class EngineDesk:
    """The engines of one stage."""

    settings: LoopSettings
    tracker: Tracker
    machine: Machine
    fleet: Fleet
    groups: GroupDesk
    side: SideWork
    retention: JournalRetention
    life: Lifecycle
    counts: Counts
    _lost: dict[str, str] = field(default_factory=dict)  # engine: why; until somebody was told
    _weight_failures: int = 0
    _settling_until: float = 0.0  # see `_join`
    _without_engines_since: float | None = None

    async def exchange(self, report: EngineReport) -> Directive:
        """Take a report in; answer with what the engine has to do, at the latest after POLL_S."""
        if self.life.is_closed:
            return Directive(end=True)
        loop = asyncio.get_running_loop()
        try:
            link = self._receive(report, loop.time())
        except Exception as error:  # a bug here must end the stage, not leave everybody waiting
            self.life.fail(error, f"taking in a report of engine {report.engine}")
            return Directive(end=True)
        if link is None:
            return Directive(end=True)
        link.waiting += 1
        link.news.fire()  # an older call of it that still waits gives way
        try:
            return await self._mail(link, loop.time() + POLL_S)
        finally:
            link.waiting -= 1
            link.seen_at = loop.time()

    async def _mail(self, link: Link, until: float) -> Directive:
        link.polls += 1
        poll = link.polls
        while True:
            directive = link.take_mail(self.fleet.published, self.fleet.journal)
            if directive is not None:
                return directive
            left_s = until - asyncio.get_running_loop().time()
            if left_s <= 0 or not await link.news.wait(left_s) or link.polls != poll:
                return link.silence()  # a newer call of the same engine is to have the mail

    # -- reports --------------------------------------------------------------------------------

    def _receive(self, report: EngineReport, now: float) -> Link | None:
        """None: it is of an engine that was given up."""
        if self.fleet.is_given_up(report):
            # Others have its work. What it has finished all the same need not be made again.
            self._take_answers(report)
            self.admit()
            return None
        known = self.fleet.links.get(report.engine)
        if known is not None and known.process != report.process:
            self.lose(known.name, EngineFailed("its process was replaced"))
            self._lost.pop(known.name, None)
            known = None
        link = self.fleet.take_in(report, now)
        if known is None:
            self._join(report, now)
        self._take_answers(report)
        if report.acknowledged is not None:
            error = self._acknowledge(link, report.acknowledged)
            if error is not None:
                self.lose(link.name, error)
                return link  # its waiting calls and this one are told that it is over
        self._hold(link, report)
        for failed in report.failed:
            if failed.lane == "train":
                self.groups.failed(link.name, failed)
            else:
                self.side.failed(failed)
        self.admit()
        return link

    def _join(self, report: EngineReport, now: float) -> None:
        self.machine.join(report.engine, report.capacity)
        self.tracker.event("engine-joined", engine=report.engine, process=report.process)
        if report.acknowledged is not None:
            # It has worked for an earlier coordinator, and so may others: before anything is handed
            # out again, they are to say what they still run.
            self._settling_until = now + SETTLE_S
            self.life.spawn(self._admit_settled(), "handing out work")

    async def _admit_settled(self) -> None:
        await asyncio.sleep(SETTLE_S + 0.01)
        self.admit()

    def _take_answers(self, report: EngineReport) -> None:
        for finished in report.finished:
            if finished.lane == "train":
                self.groups.finished(finished)
            else:
                self.side.finished(finished)

    def _hold(self, link: Link, report: EngineReport) -> None:
        for lane, draw, sample in report.holds:
            if lane != "train":
                if not self.side.is_wanted(lane, draw):
                    link.unwanted(lane, draw)
            elif draw not in self.groups.open:
                link.unwanted(lane, draw)
            elif sample not in self.groups.open[draw].samples:
                self.machine.hold(link.name, draw, sample)

    def _acknowledge(self, link: Link, answered: WeightVersion) -> WeightsDiffer | None:
        published = self.fleet.published
        error = published and other_weights(link.name, answered, published)
        if error:
            return error
        self.machine.acknowledge(link.name, answered.version)
        self._without_engines_since = None
        self.life.changed.fire()
        return None

    # -- losing engines -------------------------------------------------------------------------

    def take_lost(self) -> dict[str, str]:
        """Engines given up since the last call, and why."""
        lost, self._lost = self._lost, {}
        return lost

    def died(self, name: str, error: PosttrainError) -> None:
        """Somebody else saw an engine's process end, and replaces it."""
        self.lose(name, error)
        self._lost.pop(name, None)

    def lose(self, name: str, error: PosttrainError) -> None:
        """Go on without an engine; what it had not finished goes on elsewhere."""
        link = self.fleet.remove(name)
        if link is None:
            return
        self.groups.lost(self.machine.lose(name), self.retention.of(link))
        self.side.lost(link)
        self.counts.losses += 1
        self.counts.all_losses += 1
        self._lost[name] = error.message
        self.tracker.event("engine-lost", engine=name, message=error.message)
        self._weight_failures += isinstance(error, WeightsDiffer)
        tries = self._weight_failures if isinstance(error, WeightsDiffer) else 0
        too_many = self.counts.all_losses > self.settings.most_engine_losses
        if too_many or classify(error, tries) == "stop":
            self.life.fail(error)
        self.admit()
        self.life.changed.fire()

    def watch(self, now: float) -> None:
        """Give up who keeps others waiting. `now`: of the event loop."""
        for link in list(self.fleet.links.values()):
            error = late(link, self.fleet, self.settings, now)
            if error is not None:
                self.lose(link.name, error)
        if self.fleet.live() or self.fleet.published is None:
            self._without_engines_since = None
            return
        since = self._without_engines_since = self._without_engines_since or now
        if now - since > self.settings.no_engine_deadline_s:
            self.life.fail(
                EngineFailed(
                    f"no engine has been at work for {now - since:.0f} s",
                    help="their logs are in the run folder's logs/; posttrain resume goes on",
                )
            )

    # -- work -----------------------------------------------------------------------------------

    def admit(self) -> None:
        """Hand out everything that may start now."""
        now = asyncio.get_running_loop().time()
        if not self.life.may_begin or now < self._settling_until:
            return
        for assignment in self.machine.assign():
            self._send(assignment, now)

    def _send(self, assignment: Assignment, now: float) -> None:
        group = self.groups.handed_out(assignment, now)
        settings, draw = self.settings, assignment.draw
        link = self.fleet.links[assignment.engine]
        link.works.append(
            Work(
                lane="train",
                draw=draw,
                samples=assignment.samples,
                prompt=self.groups.prompts.at(draw),
                sampling=replace(settings.sampling, seed=draw_seed(settings.seed, draw)),
                look_in=tuple(sorted(group.look_in)),
                newest_version=self.groups.ledger.state.next_step,
                greedy_sample=settings.greedy_sample,
            )
        )
        link.news.fire()
