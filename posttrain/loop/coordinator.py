"""The coordinator: who may generate, what is trained next, which weights are where.

    prompts.at(draw) --admission--> engine.generate --> rewards.score --> buffer
                        ^                                                    |
                        |                                              next_batch(step)
                     publish(version) <------------- trainer <---------------+

Producers: one task per group (`_serve`), as many as the admission rule allows. Consumer: the
trainer, through `next_batch`, which blocks until the staleness rule lets a batch go. A group that
finishes or is dropped, and weights that every engine has acknowledged, unblock both. Everything
runs on one event loop, so no state is shared between threads. The parts are handed in as ports:
nothing here knows of processes.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from posttrain.errors import (
    DeadlineExceeded,
    EngineFailed,
    PosttrainError,
    RewardBroken,
    StageFailed,
)
from posttrain.loop.admission import AdmissionRule, FinishedGroup, choose_batch
from posttrain.loop.ledger import Ledger, LedgerState
from posttrain.loop.records import scored_group_from_json, scored_group_to_json
from posttrain.ports import RewardPort, RolloutPort, Tracker
from posttrain.types import (
    Prompt,
    Rollout,
    RolloutGroup,
    Sampling,
    Score,
    ScoredGroup,
    SyncReport,
    TrainBatch,
    WeightVersion,
)


class PromptDraws(Protocol):
    """The stage's prompt stream: the same draw number always gives the same prompt."""

    def at(self, draw: int) -> Prompt: ...


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """What one online stage asks of its coordinator."""

    rule: AdmissionRule
    num_steps: int
    samples_per_prompt: int
    sampling: Sampling
    seed: int
    # The last net under a process that hangs: they include waiting in the other side's queue.
    generate_deadline_s: float = 3600.0  # one group, on one engine
    score_deadline_s: float = 3600.0  # one group; a single answer has reward.timeout_s
    sync_deadline_s: float = 300.0  # all engines
    broken_share_limit: float = 0.05  # of the answers: more, and the run stops
    broken_min_answers: int = 256  # before the share above means anything


@dataclass(slots=True)
class _Running:
    draw: int
    start_version: int  # acknowledged by its engine when it began; known before the answer comes


class Coordinator:
    """See the module's picture. All methods must be called on one event loop."""

    def __init__(
        self,
        settings: LoopSettings,
        prompts: PromptDraws,
        engines: Sequence[RolloutPort],
        rewards: RewardPort,
        tracker: Tracker,
        ledger: Ledger,
        snapshot: Mapping[str, Any] | None = None,
    ) -> None:
        """`snapshot` is what `snapshot()` gave to the checkpoint that the trainer starts from."""
        self._settings = settings
        self._prompts = prompts
        self._engines = list(engines)
        self._rewards = rewards
        self._tracker = tracker
        self._ledger = ledger
        self._acknowledged: dict[str, int] = {}  # nobody generates before the first publication
        self._load: Counter[str] = Counter()
        self._running: dict[str, _Running] = {}
        self._buffer: dict[str, tuple[FinishedGroup, ScoredGroup]] = {}
        self._pending_draws: list[int] = []  # begun before a restart, to be generated again
        self._num_accepted = 0
        self._served: dict[int, TrainBatch] = {}  # since the last commit, to be served again
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: PosttrainError | None = None
        self._stopping = False
        self._score_ms: list[float] = []
        self._num_answers = 0
        self._num_broken = 0
        self._stats_at = time.monotonic()
        if snapshot:
            self._restore(snapshot)

    # -- stopping -------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Admit nothing more; a trainer that waits is told to save and end."""
        async with self._changed:
            self._stopping = True
            self._changed.notify_all()

    async def close(self) -> None:
        """End every task. Groups under way are forgotten; their draws stay unsettled."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._ledger.close()

    # -- what the trainer asks (TrainPort) ----------------------------------------------------

    async def next_batch(self, step: int) -> TrainBatch | None:
        """The batch that makes version step+1; the same one when asked again; None: stop."""
        began = time.monotonic()
        async with self._changed:
            while True:
                # Looked at again after each wait: a trainer that died while it waited has left its
                # call behind, and both must get the same batch.
                if step in self._served:
                    return self._served[step]
                if self._failure:
                    raise self._failure
                if self._stopping or step >= self._settings.num_steps:
                    return None
                chosen = choose_batch(
                    self._settings.rule,
                    step,
                    [finished for finished, _ in self._buffer.values()],
                    [group.start_version for group in self._running.values()],
                )
                if chosen is not None:
                    break
                await self._changed.wait()
            return self._take(step, chosen, time.monotonic() - began)

    async def publish(self, version: WeightVersion) -> SyncReport:
        """Give new weights to every engine; admission goes on once the last has acknowledged.

        The first publication is what the trainer starts from: generation begins with it. A trainer
        that was restarted publishes an older version again, and the engines follow it back.
        """
        first = not self._acknowledged
        if version.version < max(self._acknowledged.values(), default=0):
            self._rewind()
        report = await self._sync(version)
        if first:
            await self._engine_stats()  # what earlier stages did is not this stage's work
        else:
            await self._log_engines(version.version, report)
        async with self._changed:
            self._admit()
            self._changed.notify_all()
        return report

    async def probe(self, num_prompts: int = 4) -> list[Rollout]:
        """A few fresh answers of every engine under its present weights."""
        prompts = [self._prompts.at(draw) for draw in range(num_prompts)]
        # A probe checks log-probs, not answers: sixteen tokens of context are plenty.
        tokens = min(16, self._settings.sampling.max_new_tokens)
        sampling = replace(self._settings.sampling, seed=self._settings.seed, max_new_tokens=tokens)
        answers = await asyncio.gather(
            *(
                self._deadline(
                    engine.generate(f"probe-{prompt.id}", prompt, 1, sampling),
                    self._settings.sync_deadline_s,
                    f"engine {engine.name} to answer a log-prob probe",
                )
                for engine in self._engines
                for prompt in prompts
            )
        )
        return [rollout for _, rollouts in answers for rollout in rollouts]

    async def committed(self, step: int) -> None:
        """Batches up to `step` are in a whole checkpoint: they need not be served again."""
        self._served = {s: batch for s, batch in self._served.items() if s > step}
        self._ledger.flush()

    async def snapshot(self) -> dict[str, Any]:
        """What a restart needs, as JSON: the ledger's state and the finished groups that wait."""
        return {
            "ledger": self._ledger.state.to_json(),
            "buffer": [
                {"order": finished.order, "scored": scored_group_to_json(scored)}
                for finished, scored in self._buffer.values()
            ],
        }

    # -- inside ---------------------------------------------------------------------------------

    def _restore(self, snapshot: Mapping[str, Any]) -> None:
        self._ledger.state = LedgerState.from_json(snapshot["ledger"])
        for entry in snapshot["buffer"]:
            scored = scored_group_from_json(entry["scored"])
            group = scored.group
            finished = FinishedGroup(group.id, group.start_version, entry["order"])
            self._buffer[group.id] = (finished, scored)
        state = self._ledger.state
        buffered = {scored.group.draw for _, scored in self._buffer.values()}
        self._pending_draws = [draw for draw in state.unsettled() if draw not in buffered]
        # Without this a burst of version * B stale groups would be admitted after every restart.
        self._num_accepted = state.num_trained + len(self._buffer)

    def _rewind(self) -> None:
        """Begin what runs anew: it would go on under weights older than its start version says."""
        for task in self._tasks:
            task.cancel()
        self._pending_draws = sorted(
            {*self._pending_draws, *(r.draw for r in self._running.values())}
        )
        self._running.clear()

    def _admit(self) -> None:
        if self._stopping or self._failure or not self._acknowledged:
            return
        total = self._settings.num_steps * self._settings.rule.groups_per_step
        room = self._settings.rule.room(
            self._num_accepted, len(self._running), min(self._acknowledged.values())
        )
        room = min(room, total - self._num_accepted - len(self._running))
        for _ in range(room):
            draw = self._pending_draws.pop(0) if self._pending_draws else self._ledger.admit()
            self._running[str(draw)] = _Running(draw, min(self._acknowledged.values()))
            task = asyncio.get_running_loop().create_task(self._serve(draw))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, draw: int) -> None:
        """One group from prompt to buffer. Every way out gives its place back."""
        try:
            group = await self._generate(draw)
            self._running[group.id].start_version = group.start_version
            scores = await self._score(group)
        except RewardBroken as error:
            await self._drop(draw, error)
            return
        except PosttrainError as error:
            await self._fail(error)
            return
        except Exception as error:  # a bug here must end the stage, not leave the trainer waiting
            await self._fail(StageFailed(f"serving prompt draw {draw} failed: {error!r}"))
            return
        async with self._changed:
            del self._running[group.id]
            self._num_accepted += 1
            finished = FinishedGroup(group.id, group.start_version, self._num_accepted)
            self._buffer[group.id] = (finished, ScoredGroup(group, tuple(scores)))
            mean = sum(score.value for score in scores) / len(scores)
            self._ledger.scored(draw, group.start_version, mean)
            self._admit()
            self._changed.notify_all()

    async def _generate(self, draw: int) -> RolloutGroup:
        settings = self._settings
        prompt = self._prompts.at(draw)
        sampling = replace(settings.sampling, seed=draw_seed(settings.seed, draw))
        while True:
            engine = min(self._engines, key=lambda candidate: self._load[candidate.name])
            self._load[engine.name] += 1
            try:
                start_version, rollouts = await self._deadline(
                    engine.generate(str(draw), prompt, settings.samples_per_prompt, sampling),
                    settings.generate_deadline_s,
                    f"engine {engine.name} to finish prompt {prompt.id}",
                )
            except EngineFailed as error:
                self._lose(engine, error)
                continue
            finally:
                self._load[engine.name] -= 1
            return RolloutGroup(str(draw), draw, prompt, tuple(rollouts), start_version)

    def _lose(self, engine: RolloutPort, error: EngineFailed) -> None:
        """Go on without an engine that died; without any left, the stage cannot go on."""
        if engine in self._engines:
            self._engines.remove(engine)
            self._acknowledged.pop(engine.name, None)
            self._tracker.event("engine-lost", engine=engine.name, message=error.message)
        if not self._engines:
            raise error

    async def _score(self, group: RolloutGroup) -> Sequence[Score]:
        began = time.monotonic()
        scores = await self._deadline(
            self._rewards.score(group),
            self._settings.score_deadline_s,
            f"the reward worker to score prompt {group.prompt.id}",
        )
        self._score_ms.append(1000 * (time.monotonic() - began))
        self._num_answers += len(group.rollouts)
        return scores

    async def _drop(self, draw: int, error: RewardBroken) -> None:
        """A broken verifier teaches nothing: the group is dropped and counted."""
        self._num_broken += self._settings.samples_per_prompt
        self._num_answers += self._settings.samples_per_prompt
        self._ledger.dropped(draw, error.message)
        self._tracker.event("dropped", draw=draw, reason=error.message, place=error.place)
        share = self._num_broken / max(1, self._num_answers)
        enough = self._num_answers >= self._settings.broken_min_answers
        if enough and share > self._settings.broken_share_limit:
            await self._fail(
                RewardBroken(
                    f"the verifier broke on {100 * share:.0f} % of {self._num_answers} answers "
                    f"(limit {100 * self._settings.broken_share_limit:.0f} %), "
                    f"last: {error.message}",
                    place=error.place,
                    help="nothing was scored 0 for it; mend the reward or raise "
                    "reward.timeout_s, then posttrain resume",
                )
            )
            return
        async with self._changed:
            del self._running[str(draw)]
            self._admit()
            self._changed.notify_all()

    async def _fail(self, error: PosttrainError) -> None:
        async with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()

    def _take(self, step: int, chosen: list[FinishedGroup], waited_s: float) -> TrainBatch:
        groups = [self._buffer.pop(finished.group_id)[1] for finished in chosen]
        groups.sort(key=lambda scored: scored.group.draw)
        for scored in groups:
            self._ledger.trained(scored.group.draw, step)
        batch = TrainBatch(step, tuple(groups), waited_s)
        self._served[step] = batch
        return batch

    async def _sync(self, version: WeightVersion) -> SyncReport:
        engines = list(self._engines)
        answers = await asyncio.gather(
            *(
                self._deadline(
                    engine.update_weights(version),
                    self._settings.sync_deadline_s,
                    f"engine {engine.name} to take version {version.version}",
                )
                for engine in engines
            ),
            return_exceptions=True,
        )
        reports: list[SyncReport] = []
        for engine, answer in zip(engines, answers, strict=True):
            if isinstance(answer, EngineFailed):
                self._lose(engine, answer)  # raises where it was the last one
            elif isinstance(answer, BaseException):
                raise answer
            else:
                self._acknowledged[engine.name] = answer.version
                reports.append(answer)
        return SyncReport(
            version=version.version,
            checksums_agree=all(report.checksums_agree for report in reports),
            sync_ms=max(report.sync_ms for report in reports),
            stall_ms=max(report.stall_ms for report in reports),
        )

    async def _engine_stats(self) -> tuple[list[Mapping[str, float]], float]:
        """What every engine did since the last call, and how many seconds that was."""
        stats = [await engine.stats() for engine in list(self._engines)]
        window_s = max(1e-9, time.monotonic() - self._stats_at)
        self._stats_at = time.monotonic()
        return stats, window_s

    async def _log_engines(self, version: int, report: SyncReport) -> None:
        stats, window_s = await self._engine_stats()
        latency = self._score_ms or [0.0]
        self._tracker.log(
            {
                "weights/sync_ms": report.sync_ms,
                "weights/stall_share": report.stall_ms / 1000 / window_s,
                "weights/checksum_failures": float(not report.checksums_agree),
                "engine/busy_share": sum(s["busy_s"] for s in stats) / window_s / len(stats),
                "engine/tokens_per_s": sum(s["tokens"] for s in stats) / window_s,
                "engine/running": sum(s["running"] for s in stats),
                "engine/waiting": sum(s["waiting"] for s in stats),
                "age/buffer_groups": float(len(self._buffer)),
                "verifier/latency_ms": sum(latency) / len(latency),
                "verifier/failed_share": self._num_broken / max(1, self._num_answers),
                "ops/rollouts_lost": 0.0 if self._nothing_lost() else 1.0,
            },
            step=version - 1,
            version=version,
        )
        self._score_ms.clear()

    def _nothing_lost(self) -> bool:
        """Every draw given out is trained, dropped, waiting in the buffer, running, or to be
        redone.
        """
        state = self._ledger.state
        known = state.num_trained + state.num_dropped
        known += len(self._buffer) + len(self._running) + len(self._pending_draws)
        return known == state.next_draw

    async def _deadline(self, work: Awaitable[Any], seconds: float, what: str) -> Any:
        try:
            return await asyncio.wait_for(work, seconds)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"the coordinator waited {seconds:.0f} s for {what}",
                help="look at that process' log; `posttrain resume` goes on from the last "
                "checkpoint",
            ) from error


def draw_seed(stage_seed: int, draw: int) -> int:
    """The seed of a draw's samples: the same wherever and whenever the draw is generated."""
    digest = hashlib.sha256(f"{stage_seed}/{draw}".encode()).digest()
    return int.from_bytes(digest[:6], "big")
