"""Groups between admission and the buffer: gathers their samples, has them scored, decides.

    samples --finished--> (all K) --reward worker--> accepted | filtered | dropped --> ledger
                                                                     |
                              a place is free: `admit` <-------------+

The rules are the machine's; every decision stands in the ledger before it has consequences. A group
that takes too long, or whose verifier broke, is dropped and counted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from posttrain.errors import PosttrainError, RewardBroken
from posttrain.loop.failures import classify
from posttrain.loop.fleet import Fleet
from posttrain.loop.ledger import Ledger
from posttrain.loop.lifecycle import Lifecycle
from posttrain.loop.machine import Assignment, Machine, Verdict
from posttrain.loop.numbers import Counts
from posttrain.loop.scoring import VerifierHealth
from posttrain.loop.settings import LoopSettings
from posttrain.ports import RewardPort, Tracker
from posttrain.types import (
    FailedSample,
    FinishedSample,
    Prompt,
    RolloutRef,
    Scoring,
    StoredGroup,
)


class PromptDraws(Protocol):
    """The stage's prompt stream: the same draw number always gives the same prompt."""

    def at(self, draw: int) -> Prompt: ...


@dataclass(slots=True)
class OpenGroup:
    """A group that is being generated or scored."""

    began_at: float | None  # None: no engine has it, it waits for one
    samples: dict[int, FinishedSample] = field(default_factory=dict)
    look_in: set[str] = field(default_factory=set)  # journals of engines that had samples of it
    scoring: asyncio.Task[None] | None = None


@dataclass(slots=True)
class GroupDesk:
    """The open groups of one stage. `admit` is called when a place has become free."""

    settings: LoopSettings
    prompts: PromptDraws
    rewards: RewardPort
    tracker: Tracker
    ledger: Ledger
    machine: Machine
    fleet: Fleet
    life: Lifecycle
    counts: Counts
    admit: Callable[[], None]
    health: VerifierHealth = field(default_factory=VerifierHealth)
    open: dict[int, OpenGroup] = field(default_factory=dict)

    def restore(self, journals: Iterable[str]) -> None:
        """Go on from the ledger: what was scored is decided, what was begun is begun again from
        what the journals hold.
        """
        state, looked_in = self.ledger.state, set(journals)
        for draw in state.unfinished:
            self.open[draw] = OpenGroup(None, look_in=set(looked_in))
        for draw, group in list(state.scored.items()):
            for sample in range(len(group.refs)):
                self.machine.sample_finished(draw, sample, group.start_version)
            self._write_down(self.machine.group_scored(draw, _has_signal(group)))

    def handed_out(self, assignment: Assignment, now: float) -> OpenGroup:
        """An engine is to generate samples of this draw. `now`: of the event loop."""
        group = self.open.get(assignment.draw)
        if group is None:
            group = self.open[assignment.draw] = OpenGroup(now)
            self.ledger.admitted(assignment.draw, assignment.start_version)
        if group.began_at is None:
            group.began_at = now
        return group

    def lost(self, draws: Iterable[int], journals: set[str]) -> None:
        """An engine that had samples of these is gone; its journals may hold what it made."""
        for draw in draws:
            group = self.open.get(draw)
            if group is not None:
                group.look_in |= journals
                group.began_at = None  # others may not be allowed to take it on for a long time
                self.counts.retries += 1

    def finished(self, finished: FinishedSample) -> None:
        group = self.open.get(finished.draw)
        if group is None or finished.sample in group.samples:
            return  # told twice, or by two engines: the first counts
        draw = finished.draw
        outcome = self.machine.sample_finished(draw, finished.sample, finished.start_version)
        if outcome == "duplicate":
            return
        group.samples[finished.sample] = finished
        self.counts.continued_tokens += finished.continued_tokens
        if outcome == "complete":
            group.scoring = self.life.spawn(self._score(draw), f"scoring prompt draw {draw}")

    def failed(self, engine: str, failed: FailedSample) -> None:
        """An engine gives a sample back."""
        if failed.draw not in self.open:
            return
        outcome = self.machine.sample_failed(failed.draw, failed.sample, engine)
        self.counts.retries += outcome == "again"
        if outcome == "dropped":
            self.drop(failed.draw, failed.reason)

    def drop(self, draw: int, reason: str) -> None:
        """A group that teaches nothing is given up and counted; its place goes to another."""
        group = self.open.pop(draw, None)
        if group is None:
            return
        if group.scoring is not None and group.scoring is not asyncio.current_task():
            group.scoring.cancel()
        self.machine.group_dropped(draw)
        self.ledger.dropped(draw, reason)
        source = self.prompts.at(draw).source
        self.counts.dropped[source] = self.counts.dropped.get(source, 0) + 1
        self._write_down(self.machine.decisions())  # those that waited for this draw
        self.tracker.event("dropped", draw=draw, reason=reason)
        for link in self.fleet.links.values():
            link.unwanted("train", draw)
        self.admit()
        self.life.changed.fire()

    def drop_late(self, now: float) -> None:
        """Give up what has been generated or scored for too long."""
        for draw, group in list(self.open.items()):
            if group.began_at is None:
                continue
            if now - group.began_at > self.settings.group_deadline_s:
                self.drop(draw, f"not done within {now - group.began_at:.0f} s")

    def files(self) -> set[str]:
        """Journal files that hold rollouts which may still be read."""
        paths = {ref.path for group in self.ledger.state.groups() for ref in group.refs}
        for group in self.open.values():
            paths |= {sample.ref.path for sample in group.samples.values()} | group.look_in
        return paths

    # -- scoring --------------------------------------------------------------------------------

    async def _score(self, draw: int) -> None:
        """One group from its last sample to the buffer. Every way out gives its place back, or ends
        the stage.
        """
        samples = self.open[draw].samples
        refs = tuple(samples[sample].ref for sample in sorted(samples))
        try:
            scoring = await self._scores(draw, refs)
        except PosttrainError as error:
            if isinstance(error, RewardBroken) or classify(error, 2) != "drop":
                raise
            self.drop(draw, error.message)
            return
        if scoring.broken:
            self.drop(draw, scoring.broken[0])
            return
        scores = tuple(score for score in scoring.scores if score is not None)
        start = min(sample.start_version for sample in samples.values())
        group = StoredGroup(draw, start, refs, scores)
        self.ledger.scored(group)
        self._write_down(self.machine.group_scored(draw, _has_signal(group)))
        self.admit()
        self.life.changed.fire()

    async def _scores(self, draw: int, refs: tuple[RolloutRef, ...]) -> Scoring:
        began = time.time()
        prompt = self.prompts.at(draw)
        scoring: Scoring = await self.life.deadline(
            self.rewards.score(prompt, refs),
            self.settings.score_deadline_s,
            f"the reward worker to score prompt {prompt.id}",
        )
        self.health.scored(prompt.source, len(refs), scoring.broken, 1000 * (time.time() - began))
        self.tracker.span("rewards", "score", began, time.time(), draw=draw)
        self.health.require_sound(prompt.source)
        return scoring

    def _write_down(self, decisions: Sequence[tuple[int, Verdict]]) -> None:
        for decided, decision in decisions:
            self.open.pop(decided, None)
            if decision == "accepted":
                self.ledger.accepted(decided)
            else:
                self.ledger.filtered(decided)


def _has_signal(group: StoredGroup) -> bool:
    values = [score.value for score in group.scores]
    return max(values) > min(values)
