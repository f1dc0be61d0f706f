"""The coordinator: who may generate, what is trained next, which weights are where.

    prompts.at(draw) --machine.assign--> engine --finished--> rewards.score --> buffer
                             ^                                                     |
                          publish(version) <------- trainer <------- next_batch(step)

Producers: engines, through `exchange`: each call tells what an engine has finished and is answered
with its next work and weights. Consumer: the trainer, through `next_batch`, which blocks until the
machine lets a batch go. Everything runs on one event loop, so no state is shared between threads.
The rules are the machine's (`loop.machine`), the record is the ledger's, tokens never come by: they
lie where the engines wrote them. Nothing here knows of processes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from posttrain.errors import (
    DeadlineExceeded,
    EngineFailed,
    PosttrainError,
    RewardBroken,
    StageFailed,
    WeightsDiffer,
)
from posttrain.loop.failures import classify
from posttrain.loop.fleet import Fleet, Link
from posttrain.loop.heldout import ask_heldout
from posttrain.loop.ledger import Ledger
from posttrain.loop.machine import Assignment, Machine, Verdict
from posttrain.loop.numbers import Counts, Numbers
from posttrain.loop.pulse import Pulse
from posttrain.loop.retention import JournalRetention
from posttrain.loop.scoring import VerifierHealth
from posttrain.loop.settings import LoopSettings, draw_seed
from posttrain.loop.side_work import SideWork
from posttrain.loop.watch import late, other_weights
from posttrain.ports import StoredRewardPort, Tracker
from posttrain.types import (
    Directive,
    EngineReport,
    FinishedSample,
    Prompt,
    RolloutRef,
    Scoring,
    StoredBatch,
    StoredGroup,
    SyncReport,
    WeightVersion,
    Work,
)

POLL_S = 5.0  # an engine without news is answered after this
SETTLE_S = 2.0  # a restarted coordinator waits so long for engines to report
PROBE_TOKENS = 16  # a probe checks log-probs, not answers


class PromptDraws(Protocol):
    """The stage's prompt stream: the same draw number always gives the same prompt."""

    def at(self, draw: int) -> Prompt: ...


@dataclass(slots=True)
class _Open:
    """A group that is being generated or scored."""

    began_at: float
    samples: dict[int, FinishedSample] = field(default_factory=dict)
    look_in: set[str] = field(default_factory=set)
    scoring: asyncio.Task[None] | None = None


class Coordinator:
    """See the module's picture. All methods must be called on one event loop."""

    def __init__(
        self,
        settings: LoopSettings,
        prompts: PromptDraws,
        rewards: StoredRewardPort,
        tracker: Tracker,
        ledger: Ledger,
        journals: Path | None = None,
        heldout: Sequence[Prompt] = (),
    ) -> None:
        """`ledger` has replayed what an earlier coordinator of the stage wrote; `journals` is the
        folder that the engines write into.
        """
        self._settings = settings
        self._prompts = prompts
        self._rewards = rewards
        self._tracker = tracker
        self._ledger = ledger
        self._heldout = heldout
        self._machine = Machine(
            settings.rule,
            settings.num_steps,
            settings.samples_per_prompt,
            filter_no_signal=settings.filter_no_signal,
            max_refill_batches=settings.max_refill_batches,
            state=ledger.state.machine(),
        )
        self._fleet = Fleet()
        self._side = SideWork(self._fleet)
        self._health = VerifierHealth()
        self._retention = JournalRetention(journals)
        self._open: dict[int, _Open] = {}
        self._changed = Pulse()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._failure: PosttrainError | None = None
        self._stopping = False
        self._lost: dict[str, str] = {}  # engine: why; until the launcher has been told
        self._counts = Counts()
        self._weight_failures = 0
        self._numbers = Numbers()
        self._settling_until = 0.0  # see `_receive`
        self._without_engines_since: float | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._restore()

    # -- what engines say (CoordinatorPort) -----------------------------------------------------

    async def exchange(self, report: EngineReport) -> Directive:
        """Take a report in; answer with what the engine has to do, at the latest after POLL_S."""
        loop = asyncio.get_running_loop()
        self._watch()
        try:
            link = self._receive(report, loop.time())
        except ValueError as error:  # a bug here must end the stage, not leave everybody waiting
            self._fail(StageFailed(f"a report of engine {report.engine} makes no sense: {error}"))
            return Directive(end=True)
        link.waiting += 1
        link.news.set()  # an older call of it that still waits gives way
        try:
            return await self._mail(link, loop.time() + POLL_S)
        finally:
            link.waiting -= 1
            link.seen_at = loop.time()

    async def _mail(self, link: Link, until: float) -> Directive:
        link.polls += 1
        poll = link.polls
        while True:
            link.news.clear()
            directive = link.take_mail(self._fleet.published, self._fleet.journal)
            if directive is not None:
                return directive
            left_s = until - asyncio.get_running_loop().time()
            try:
                await asyncio.wait_for(link.news.wait(), max(0.0, left_s))
            except TimeoutError:
                return link.silence()
            if link.polls != poll:  # a newer call of the same engine is to have the mail
                link.news.set()
                return link.silence()

    def lost_engines(self) -> dict[str, str]:
        """Engines given up since the last call, and why: their processes should be replaced."""
        lost, self._lost = self._lost, {}
        return lost

    async def engine_died(self, name: str, error: PosttrainError) -> None:
        """The launcher saw an engine's process end, and replaces it."""
        self._lose(name, error)
        self._lost.pop(name, None)

    # -- what the trainer asks (TrainPort) ------------------------------------------------------

    async def next_batch(self, step: int) -> StoredBatch | None:
        """The batch that makes version step+1; the same one when asked again; None: stop."""
        began = time.monotonic()
        self._watch()
        while True:
            if step in self._ledger.state.served:
                return StoredBatch(step, self._ledger.state.served[step])
            if self._failure:
                raise self._failure
            if self._stopping or step >= self._settings.num_steps:
                return None
            draws = self._machine.take_batch(step)
            if draws is not None:
                break
            await self._changed.wait()
        groups = self._ledger.trained(step, draws)
        waited_s = time.monotonic() - began
        self._tracker.span(
            "coordinator", f"wait for batch {step}", time.time() - waited_s, time.time()
        )
        return StoredBatch(step, groups, waited_s)

    async def publish(self, version: WeightVersion) -> None:
        """Announce new weights; returns at once but for engines that lack the previous ones."""
        self._watch()
        first = self._fleet.published is None
        if not first:
            await self._all_acknowledged(self._fleet.published)
        self._fleet.published = version
        self._fleet.wake()
        if first:
            self._numbers.begin(self._fleet)
        else:
            self._log_engines(version.version)
        every = self._settings.heldout_every
        if self._heldout and every and version.version % every == 0:
            self._spawn(self._ask_heldout(version.version))

    async def wait_acknowledged(self, version: int) -> SyncReport:
        """Every live engine computes with `version` or a newer one, and there is one."""
        published = self._fleet.published
        if published is None or published.version < version:
            raise StageFailed(f"version {version} was not published, so no engine can have it")
        await self._all_acknowledged(published)
        while not self._fleet.live():
            if self._failure:
                raise self._failure
            await self._changed.wait()
        return self._fleet.sync_of(version) or SyncReport(version, True, 0.0, 0.0)

    async def probe(self, num_prompts: int = 4) -> list[tuple[Prompt, RolloutRef]]:
        """A few fresh answers of every engine under its present weights."""
        settings = self._settings
        tokens = min(PROBE_TOKENS, settings.sampling.max_new_tokens)
        sampling = replace(settings.sampling, seed=settings.seed, max_new_tokens=tokens)
        prompts = [self._prompts.at(draw) for draw in range(num_prompts)]
        questions = [(link.name, prompt) for link in self._fleet.live() for prompt in prompts]
        answers = await self._deadline(
            self._side.ask("probe", questions, sampling),
            settings.sync_deadline_s,
            f"engines {', '.join(sorted({name for name, _ in questions}))} to answer a probe",
        )
        return [(prompt, answer.ref) for prompt, answer in answers]

    async def committed(self, step: int) -> None:
        """A whole checkpoint holds `step` trained batches: they need not be served again."""
        self._ledger.committed(step)
        self._machine.committed(step)
        self._retention.committed(self._refs(), self._fleet.links.values())
        self._fleet.journal += 1  # half-generated samples move on into new segments
        self._fleet.wake()

    async def snapshot(self) -> dict[str, Any]:
        """What a restart needs besides the files: the ledger's state and position, as JSON."""
        return self._ledger.snapshot()

    # -- stopping -------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Admit nothing more, write down what is half-generated; a trainer that waits is told to
        save and end.
        """
        self._stopping = True
        self._fleet.journal += 1
        self._fleet.wake()
        self._changed.fire()

    async def close(self) -> None:
        """End every task, and tell the engines that the stage is over."""
        self._stopping = True
        for link in self._fleet.links.values():
            link.over = True
        self._fleet.wake()
        tasks = [*self._tasks, *([self._watcher] if self._watcher else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._ledger.close()

    # -- engines --------------------------------------------------------------------------------

    def _receive(self, report: EngineReport, now: float) -> Link:
        known = self._fleet.links.get(report.engine)
        if known is not None and known.process != report.process:
            self._lose(known.name, EngineFailed("its process was replaced"))
            self._lost.pop(known.name, None)
            known = None
        link = self._fleet.take_in(report, now)
        if known is None:
            self._machine.join(report.engine, report.capacity)
            self._tracker.event("engine-joined", engine=report.engine, process=report.process)
            if report.acknowledged is not None:
                # It has worked for an earlier coordinator, and so may others: before anything is
                # handed out again, they are to say what they still run.
                self._settling_until = now + SETTLE_S
                asyncio.get_running_loop().call_later(SETTLE_S + 0.01, self._admit)
        if report.acknowledged is not None:
            self._acknowledge(link, report.acknowledged)
        for lane, draw, sample in report.holds:
            if lane != "train" or draw not in self._open:
                link.aborts.append((lane, draw))  # of a time that this coordinator knows not of
            elif sample not in self._open[draw].samples:
                self._machine.hold(link.name, draw, sample)
        for finished in report.finished:
            self._finished(finished)
        for failed in report.failed:
            if failed.lane != "train":
                self._side.failed(failed)
            elif failed.draw in self._open:
                self._counts.retries += 1
                outcome = self._machine.sample_failed(failed.draw, failed.sample, link.name)
                if outcome == "dropped":
                    self._close_dropped(failed.draw, failed.reason)
        self._admit()
        return link

    def _acknowledge(self, link: Link, answered: WeightVersion) -> None:
        published = self._fleet.published
        if published is None:
            # A restarted coordinator learns from the engines what was published before.
            self._fleet.published = published = answered
        error = other_weights(link.name, answered, published)
        if error is not None:
            self._lose(link.name, error)
            return
        self._machine.acknowledge(link.name, answered.version)
        self._without_engines_since = None
        self._changed.fire()

    def _lose(self, name: str, error: PosttrainError) -> None:
        """Go on without an engine; what it had not finished goes on elsewhere."""
        link = self._fleet.remove(name)
        if link is None:
            return
        journals = self._retention.of(link)
        for draw in self._machine.lose(name):
            if draw in self._open:
                self._open[draw].look_in |= journals
                self._counts.retries += 1
        self._side.lost(link)
        self._counts.losses += 1
        self._counts.all_losses += 1
        self._lost[name] = error.message
        self._tracker.event("engine-lost", engine=name, message=error.message)
        self._weight_failures += isinstance(error, WeightsDiffer)
        tries = self._weight_failures if isinstance(error, WeightsDiffer) else 0
        if (
            classify(error, tries) == "stop"
            or self._counts.all_losses > self._settings.most_engine_losses
        ):
            self._fail(error)
        self._admit()
        self._changed.fire()

    def _admit(self) -> None:
        if self._stopping or self._failure:
            return
        now = asyncio.get_running_loop().time()
        if now < self._settling_until:
            return
        for assignment in self._machine.assign():
            if assignment.draw not in self._open:
                self._open[assignment.draw] = _Open(now)
                self._ledger.admitted(assignment.draw, assignment.start_version)
            self._send(assignment)

    def _send(self, assignment: Assignment) -> None:
        settings, draw = self._settings, assignment.draw
        link = self._fleet.links[assignment.engine]
        work = Work(
            lane="train",
            draw=draw,
            samples=assignment.samples,
            prompt=self._prompts.at(draw),
            sampling=replace(settings.sampling, seed=draw_seed(settings.seed, draw)),
            look_in=tuple(sorted(self._open[draw].look_in)),
        )
        link.works.append(work)
        link.news.set()

    # -- groups ---------------------------------------------------------------------------------

    def _finished(self, finished: FinishedSample) -> None:
        if finished.lane != "train":
            self._side.finished(finished)
            return
        group = self._open.get(finished.draw)
        if group is None or finished.sample in group.samples:
            return  # told twice, or by two engines: the first counts
        outcome = self._machine.sample_finished(
            finished.draw, finished.sample, finished.start_version
        )
        if outcome == "duplicate":
            return
        group.samples[finished.sample] = finished
        self._counts.continued_tokens += finished.continued_tokens
        if outcome == "complete":
            group.scoring = self._spawn(self._score(finished.draw))

    async def _score(self, draw: int) -> None:
        """One group from its last sample to the buffer. Every way out gives its place back."""
        group = self._open[draw]
        refs = tuple(group.samples[sample].ref for sample in sorted(group.samples))
        try:
            scoring = await self._scores(draw, refs)
            self._health.require_sound()
        except PosttrainError as error:
            if classify(error, 2) == "drop" and not isinstance(error, RewardBroken):
                self._close_dropped(draw, error.message)
            else:
                self._fail(error)
            return
        except Exception as error:  # a bug here must end the stage, not leave the trainer waiting
            self._fail(StageFailed(f"scoring prompt draw {draw} failed: {error!r}"))
            return
        if scoring.broken:
            self._close_dropped(draw, scoring.broken[0])
            return
        scores = tuple(score for score in scoring.scores if score is not None)
        start = min(sample.start_version for sample in group.samples.values())
        self._decide(StoredGroup(draw, start, refs, scores))

    async def _scores(self, draw: int, refs: tuple[RolloutRef, ...]) -> Scoring:
        began = time.time()
        prompt = self._prompts.at(draw)
        scoring: Scoring = await self._deadline(
            self._rewards.score(prompt, refs),
            self._settings.score_deadline_s,
            f"the reward worker to score prompt {prompt.id}",
        )
        self._health.scored(len(refs), scoring.broken, 1000 * (time.time() - began))
        self._tracker.span("rewards", "score", began, time.time(), draw=draw)
        return scoring

    def _decide(self, group: StoredGroup) -> None:
        values = [score.value for score in group.scores]
        self._ledger.scored(group)
        self._settle(group.draw, has_signal=max(values) > min(values))
        self._admit()
        self._changed.fire()

    def _settle(self, draw: int, has_signal: bool) -> None:
        self._write_down(self._machine.group_scored(draw, has_signal))

    def _write_down(self, decisions: Sequence[tuple[int, Verdict]]) -> None:
        for decided, decision in decisions:
            self._open.pop(decided, None)
            if decision == "accepted":
                self._ledger.accepted(decided)
            else:
                self._ledger.filtered(decided)

    def _close_dropped(self, draw: int, reason: str) -> None:
        """A group that teaches nothing is given up and counted; its place goes to another."""
        group = self._open.pop(draw, None)
        if group is None:
            return
        if group.scoring is not None and group.scoring is not asyncio.current_task():
            group.scoring.cancel()
        self._machine.group_dropped(draw)
        self._ledger.dropped(draw, reason)
        self._write_down(self._machine.decisions())  # those that waited for this draw
        self._tracker.event("dropped", draw=draw, reason=reason)
        for link in self._fleet.links.values():
            link.aborts.append(("train", draw))
            link.news.set()
        self._admit()
        self._changed.fire()

    def _fail(self, error: PosttrainError) -> None:
        self._failure = self._failure or error
        self._changed.fire()

    # -- restart --------------------------------------------------------------------------------

    def _restore(self) -> None:
        """Go on from the ledger: what was scored is decided, what was begun is begun again from
        what the journals hold.
        """
        state = self._ledger.state
        journals = self._retention.all()
        for draw in state.unfinished:
            self._open[draw] = _Open(0.0, look_in=set(journals))
        for draw, group in list(state.scored.items()):
            values = [score.value for score in group.scores]
            for sample in range(len(group.refs)):
                self._machine.sample_finished(draw, sample, group.start_version)
            self._settle(draw, has_signal=max(values) > min(values))
        if self._ledger.num_replayed or self._ledger.num_torn:
            self._tracker.event(
                "restored",
                step=state.next_step,
                buffered=len(state.buffered),
                unfinished=len(state.unfinished),
                torn=self._ledger.num_torn,
            )

    def _refs(self) -> set[str]:
        """Journal files that hold rollouts which may still be read."""
        paths = {ref.path for group in self._ledger.state.groups() for ref in group.refs}
        for group in self._open.values():
            paths |= {sample.ref.path for sample in group.samples.values()} | group.look_in
        return paths

    # -- deadlines ------------------------------------------------------------------------------

    def _watch(self) -> None:
        if self._watcher is None:
            self._watcher = asyncio.get_running_loop().create_task(self._watch_for_ever())

    async def _watch_for_ever(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            now = asyncio.get_running_loop().time()
            for link in list(self._fleet.links.values()):
                error = late(link, self._fleet, self._settings, now)
                if error is not None:
                    self._lose(link.name, error)
            for draw, group in list(self._open.items()):
                group.began_at = group.began_at or now
                if now - group.began_at > self._settings.group_deadline_s:
                    self._close_dropped(draw, f"not done within {now - group.began_at:.0f} s")
            self._require_engines(now)

    def _require_engines(self, now: float) -> None:
        if self._fleet.live() or self._fleet.published is None:
            self._without_engines_since = None
            return
        since = self._without_engines_since = self._without_engines_since or now
        if now - since > self._settings.no_engine_deadline_s:
            self._fail(
                EngineFailed(
                    f"no engine has been at work for {now - since:.0f} s",
                    help="their logs are in the run folder's logs/; posttrain resume goes on",
                )
            )

    async def _all_acknowledged(self, published: WeightVersion | None) -> None:
        """Wait until no live engine is behind; those that never answer are given up by `_late`."""
        while published is not None and self._fleet.behind(published):
            if self._failure:
                raise self._failure
            await self._changed.wait()

    async def _deadline(self, work: Awaitable[Any], seconds: float, what: str) -> Any:
        try:
            return await asyncio.wait_for(work, seconds)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"the coordinator waited {seconds:.0f} s for {what}",
                help="look at that process' log; `posttrain resume` goes on from the last "
                "checkpoint",
            ) from error

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- numbers --------------------------------------------------------------------------------

    async def _ask_heldout(self, version: int) -> None:
        """A measurement that fails is told, and does not end the training."""
        sampling = replace(self._settings.sampling, seed=self._settings.seed)
        try:
            await self.wait_acknowledged(version)
            engines = [link.name for link in self._fleet.live()]
            metrics = await self._deadline(
                ask_heldout(self._side, self._rewards, engines, self._heldout, sampling),
                self._settings.group_deadline_s,
                "held-out questions",
            )
        except PosttrainError as error:
            self._tracker.event("heldout-failed", version=version, reason=error.message)
            return
        if metrics:
            self._tracker.log(metrics, step=max(0, version - 1), version=version)

    def _log_engines(self, version: int) -> None:
        metrics = self._numbers.since_last(
            self._fleet,
            self._health,
            self._ledger.state,
            self._counts,
            self._fleet.take_sync(version - 1),
            len(self._open),
        )
        self._tracker.log(metrics, step=version - 1, version=version)
