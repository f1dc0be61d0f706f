"""One engine's process: takes work from the coordinator, generates it, tells what is finished.

    coordinator <--reports, directives--> Courier --work--> engine --answers--> journal
                                                     (swap of weights in flight)

Producer: the coordinator, whose directives bring prompts and weights. Consumers: whoever reads the
journal; up goes where a sample lies, never its tokens. Nothing here waits for anything else: the
conversation, the engine, the journal and the swap each have a task of their own on one event loop.
Generation goes on while the coordinator is away. What ends `serve` is the end of the stage, an
engine that is dead or has other weights than were published, and a coordinator that stays away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import Any

from posttrain.errors import WeightsGone
from posttrain.ports import CoordinatorPort
from posttrain.rollout.courier import Courier, Letter
from posttrain.rollout.journal import JournalWriter
from posttrain.rollout.samples import Answer, SampleEngine, SampleKey, SampleTask
from posttrain.rollout.spans import EngineSpans, SpanSink
from posttrain.rollout.takeover import Estate, found_finished, found_partial
from posttrain.types import (
    Directive,
    EngineReport,
    EngineStats,
    FailedSample,
    FinishedSample,
    Rollout,
    WeightVersion,
    Work,
)

REMEMBERED = 4096  # finished samples whose report can be given again without generating anything


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How a worker behaves. Times in seconds."""

    journal_every_tokens: int = 256  # of one sample: what a killed engine may lose of it
    journal_check_s: float = 0.5  # how often the samples' lengths are looked at
    gather_s: float = 0.015  # between two reports at least: what ends meanwhile is told together
    coordinator_deadline_s: float = 120.0  # for how long the coordinator may be away


class RolloutWorker:
    """Serves one coordinator with one engine. `capacity`: sequences that it decodes together."""

    def __init__(
        self,
        engine: SampleEngine,
        coordinator: CoordinatorPort,
        journal: JournalWriter,
        *,
        name: str,
        process: str,
        capacity: int,
        settings: WorkerSettings | None = None,
        span: SpanSink | None = None,
    ) -> None:
        self._engine = engine
        self._journal = journal
        self._name, self._process, self._capacity = name, process, capacity
        self._settings = settings or WorkerSettings()
        self._spans = EngineSpans(span, name) if span else None
        self._courier = Courier(
            coordinator,
            self._report,
            self._obey,
            name=name,
            gather_s=self._settings.gather_s,
            deadline_s=self._settings.coordinator_deadline_s,
        )
        self._estate = Estate()
        self._held: dict[SampleKey, SampleTask] = {}  # taken on and neither finished nor aborted
        self._told: dict[SampleKey, FinishedSample | FailedSample] = {}
        self._written: dict[SampleKey, int] = {}  # tokens that stand in the present segment
        self._journal_lock = asyncio.Lock()
        self._journal_number = 0
        self._acknowledged: WeightVersion | None = None
        self._wanted: WeightVersion | None = None
        self._swaps = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._over: asyncio.Future[None] | None = None

    async def serve(self) -> None:
        """Work until the coordinator says that the stage is over.

        Raises EngineFailed, WeightsDiffer, DeadlineExceeded (coordinator away) and StageFailed
        (the journal cannot be written, or another engine's cannot be read).
        """
        self._over = asyncio.get_running_loop().create_future()
        for part in (self._courier.run(), self._collect(), self._keep_journal()):
            self._begin(part)
        try:
            await self._over
            await self._write_growth(at_least=1)  # a stage that was stopped goes on from here
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._engine.abort(list(self._held))
            self._journal.close()
            if self._spans:
                self._spans.close()

    # -- the conversation -----------------------------------------------------------------------

    async def _report(self, letter: Letter) -> EngineReport:
        stats = await self._engine.stats()
        return EngineReport(
            engine=self._name,
            process=self._process,
            capacity=self._capacity,
            acknowledged=self._acknowledged,
            sync=letter.sync,
            finished=letter.finished,
            failed=letter.failed,
            holds=tuple(self._held) if letter.everything else (),
            received=letter.number,
            stats=EngineStats(
                stats["busy_s"],
                int(stats["tokens"]),
                int(stats["running"]),
                int(stats["waiting"]),
                stats["cache_hit_share"],
            ),
        )

    def _obey(self, directive: Directive) -> None:
        if directive.end:
            self._end(None)
            return
        if directive.weights is not None and self._is_news(directive.weights):
            self._wanted = directive.weights
            if not self._swaps:
                self._swaps = True
                self._begin(self._swap())
        if directive.abort:
            self._abort(directive.abort)
        if directive.journal > self._journal_number:
            self._journal_number = directive.journal
            self._begin(self._write_everything())
        for work in directive.work:
            self._take_on(work)

    def _take_on(self, work: Work) -> None:
        tasks, known = [], []
        for sample in work.samples:
            key = (work.lane, work.draw, sample)
            if key in self._told:
                known.append(self._told[key])
            elif key not in self._held:  # else it was sent twice
                sampling = work.sampling
                if sample == work.greedy_sample:
                    sampling = replace(sampling, temperature=0.0, seed=None)
                tasks.append(SampleTask(key, work.prompt, sampling))
        self._held |= {task.key: task for task in tasks}
        if known:
            self._courier.tell(*known)
        if work.look_in:
            self._begin(self._take_over(tasks, work.look_in, work.newest_version))
        else:
            self._generate(tasks)

    def _abort(self, draws: tuple[tuple[str, int], ...]) -> None:
        unwanted = set(draws)
        keys = [key for key in self._held if key[:2] in unwanted]
        for key in keys:
            del self._held[key]
            self._written.pop(key, None)
        if keys:
            self._begin(self._engine.abort(keys))
            self._note_load()

    # -- generating -----------------------------------------------------------------------------

    async def _take_over(
        self, tasks: list[SampleTask], paths: tuple[str, ...], newest_version: int
    ) -> None:
        """Go on with what others have left behind of these samples."""
        journals = await self._estate.look(paths)
        going_on = []
        for task in tasks:
            if task.key not in self._held:  # aborted meanwhile
                continue
            whole = found_finished(task.key, journals, newest_version)
            if whole is not None:
                count = whole.num_tokens
                self._tell_finished(
                    FinishedSample(*task.key, whole.ref, whole.start_version, count, count)
                )
                continue
            prefix = found_partial(task.key, journals, newest_version)
            if prefix is not None and len(prefix.token_ids) < task.sampling.max_new_tokens:
                task = SampleTask(task.key, task.prompt, task.sampling, prefix)
                self._held[task.key] = task
            going_on.append(task)
        self._generate(going_on)

    def _generate(self, tasks: list[SampleTask]) -> None:
        if tasks:
            self._engine.submit(tasks)
            self._note_load()

    async def _collect(self) -> None:
        while True:
            answers = await self._engine.finished()
            self._take_in([answer for answer in answers if answer.task.key in self._held])
            self._note_load()
            await asyncio.sleep(self._settings.gather_s)

    def _take_in(self, answers: list[Answer]) -> None:
        """Write down what has ended, and tell it."""
        whole = [
            (answer.task, answer.rollout, _oldest(answer.start_version, answer.rollout))
            for answer in answers
            if answer.rollout is not None
        ]
        refs = self._journal.finished_many(
            [(*task.key[:2], rollout, start_version) for task, rollout, start_version in whole]
        )
        for (task, rollout, start_version), ref in zip(whole, refs, strict=True):
            num_tokens = len(rollout.token_ids)
            self._tell_finished(
                FinishedSample(*task.key, ref, start_version, num_tokens, task.num_given)
            )
        for answer in answers:
            if answer.rollout is None:
                self._tell(answer.task.key, FailedSample(*answer.task.key, answer.reason))

    def _tell_finished(self, finished: FinishedSample) -> None:
        self._tell((finished.lane, finished.draw, finished.sample), finished)

    def _tell(self, key: SampleKey, news: FinishedSample | FailedSample) -> None:
        """How a sample ended; the same again where its work is sent twice."""
        del self._held[key]
        self._written.pop(key, None)
        self._told[key] = news
        if len(self._told) > REMEMBERED:
            del self._told[next(iter(self._told))]
        self._courier.tell(news)

    def _note_load(self) -> None:
        if self._spans:
            self._spans.working(bool(self._held))

    # -- weights --------------------------------------------------------------------------------

    def _is_news(self, weights: WeightVersion) -> bool:
        """Whether to take these; the same ones again where they are sent from another place. Not
        what is older than what was asked for since: an answer may come late. Nor what is older than
        what the engine has: the trainer was restarted and will be there again, and what runs here
        began under those.
        """
        have, wanted = self._acknowledged, self._wanted
        if wanted is not None and (weights == wanted or _order(weights) < _order(wanted)):
            return False
        return have is None or (weights != have and weights.version >= have.version)

    async def _swap(self) -> None:
        """Take the newest weights that were asked for, until they are those in use."""
        try:
            while self._wanted is not None and self._wanted != self._acknowledged:
                wanted, have = self._wanted, self._acknowledged
                if have is not None and wanted.version < have.version:
                    return  # asked for while newer ones of an earlier trainer were on their way
                await self._write_growth(at_least=1)
                try:
                    report = await self._engine.update_weights(wanted)
                except WeightsGone:
                    # A newer version has taken their place: ask for that one.
                    if self._wanted == wanted:
                        self._wanted = None
                    self._courier.tell()
                    continue
                self._acknowledged = wanted
                self._courier.tell(report)
                if self._spans:
                    self._spans.swapped(wanted.version, report.stall_ms / 1000)
        finally:
            self._swaps = False

    # -- the journal ----------------------------------------------------------------------------

    async def _keep_journal(self) -> None:
        while True:
            await asyncio.sleep(self._settings.journal_check_s)
            await self._write_growth(self._settings.journal_every_tokens)

    async def _write_everything(self) -> None:
        """Begin a segment in which every unfinished sample stands from its first token on."""
        async with self._journal_lock:
            self._journal.rotate()
            self._written.clear()
        await self._write_growth(at_least=1)

    async def _write_growth(self, at_least: int) -> None:
        """Write down what samples have got since they were last written, where it is enough."""
        async with self._journal_lock:
            for growth in await self._engine.growth(self._written, at_least):
                key, tokens = growth.task.key, growth.tokens
                if key not in self._held:  # finished or aborted meanwhile
                    continue
                self._journal.progress(
                    *key,
                    growth.from_token,
                    tokens.token_ids,
                    tokens.logprobs,
                    tokens.versions,
                    tokens.start_version,
                )
                self._written[key] = growth.from_token + len(tokens.token_ids)

    # -- tasks ----------------------------------------------------------------------------------

    def _begin(self, part: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(part)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._end(task.exception())

    def _end(self, error: BaseException | None) -> None:
        if self._over is None or self._over.done():
            return
        if error is None:
            self._over.set_result(None)
        else:
            self._over.set_exception(error)


def _oldest(start_version: int, rollout: Rollout) -> int:
    """The start version of an answer. After a restart, an engine may go on with the beginning of
    an answer that was made under newer weights than it has itself.
    """
    return min((start_version, *rollout.versions))


def _order(weights: WeightVersion) -> tuple[int, int]:
    """Rises with every publication: a restarted trainer begins with an older version again."""
    return weights.attempt, weights.version
