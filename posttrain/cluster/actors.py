"""Actors: thin wrappers that give our plain classes a process of their own.

Heavy imports happen inside the constructors, in the actor's process, so that importing this module
costs the driver nothing.
"""

from __future__ import annotations

import os
import pickle
import socket
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.cluster.engine_place import EnginePlace
from posttrain.errors import PosttrainError, RewardBroken
from posttrain.ports import CoordinatorPort, EngineSpec, Tracker
from posttrain.stages.jobs import JOURNALS, LEDGER, OnlineJob, PluginRef, ScoringJob
from posttrain.track.spans import Span
from posttrain.types import (
    WATCH_PART,
    Directive,
    EngineReport,
    Prompt,
    Rollout,
    RolloutRef,
    Sampling,
    Score,
    Scoring,
    StoredBatch,
    SyncReport,
    WeightVersion,
)
from posttrain.weight_sync.shared_directory import memory_name

if TYPE_CHECKING:
    from posttrain.reward.score_columns import ScoreColumns
    from posttrain.reward.worker import RewardPool

# Sequences that an engine is given per place: those beyond wait in its own queue, so that no place
# stands empty between a report and the next work.
SPARE = 1.25


class EngineActor:
    """One vLLM engine. Async: many generate calls are under way at once."""

    def __init__(self, spec: EngineSpec, name: str) -> None:
        os.environ["OMP_NUM_THREADS"] = str(spec.cpus)
        from posttrain.cluster.cores import take_cores
        from posttrain.rollout.vllm_engine import VllmEngine

        self._cores = take_cores(spec.cpus) if spec.gpus == 0 else ()
        self._engine = VllmEngine(spec, name, self._cores)

    async def start(self) -> EnginePlace:
        """Start the engine; returns where it is."""
        await self._engine.start()
        return EnginePlace(socket.gethostname(), self._cores, memory_name())

    async def serve(self, coordinator: CoordinatorPort, journals: str, tracker: Tracker) -> None:
        """Work for one stage until its coordinator says that it is over. Raises EngineFailed,
        WeightsDiffer, and DeadlineExceeded where the coordinator stays away.
        """
        from posttrain.rollout.journal import JournalWriter
        from posttrain.rollout.worker import RolloutWorker

        process = uuid.uuid4().hex[:8]
        name = self._engine.name
        worker = RolloutWorker(
            self._engine,
            coordinator,
            JournalWriter(Path(journals), name, process),
            name=name,
            process=process,
            capacity=round(SPARE * self._engine.spec.max_running),
            span=tracker.span,
        )
        await worker.serve()

    async def generate_many(self, prompts: list[Prompt], sampling: Sampling) -> list[Rollout]:
        return await self._engine.generate_many(prompts, sampling)

    async def token_logprobs(
        self, sequences: list[tuple[Sequence[int], Sequence[int]]]
    ) -> list[list[float]]:
        return await self._engine.token_logprobs(sequences)

    async def load_model_folder(self, path: str) -> None:
        await self._engine.load_model_folder(path)

    async def shutdown(self) -> None:
        await self._engine.shutdown()


class RewardActor:
    """Scores answers in killable child processes of its own."""

    def __init__(self, job: ScoringJob, tracker: bytes) -> None:
        """`tracker`: packed."""
        from posttrain.cluster.judges import Judges

        self._tracker = unpacked(tracker)[0]
        if _was_restarted():
            self._tracker.event("reward-worker-restarted")
        self._trouble: PosttrainError | None = None
        self._watch: RewardPool | None = None
        self._columns: ScoreColumns | None = None
        try:
            if job.ensembles:
                from posttrain.reward.score_columns import ScoreColumns  # imports torch

                self._columns = ScoreColumns(
                    job.ensembles, job.fused, job.baselines, job.tokenizer_path
                )
            self._judges = Judges(job.judges, Path(job.directory))
        except PosttrainError as error:  # told to whoever asks for a score
            self._trouble = RewardBroken(error.message, help=error.help)
            return
        self._pool = self._started(job, job.reward)
        if job.watch is not None:
            self._watch = self._started(job, job.watch)

    def _started(self, job: ScoringJob, reward: PluginRef) -> RewardPool:
        from posttrain.reward.worker import RewardPool

        told = self._judges.settings(reward.settings)
        return RewardPool(reward.name, told, job.timeout_s, job.processes, job.memory_mb)

    def score_many(self, groups: Sequence[tuple[Prompt, Sequence[RolloutRef]]]) -> list[Scoring]:
        """One entry per group. Raises RewardBroken where the reward cannot be used at all.

        The answers are read where their engines wrote them. An answer that the verifier broke on
        twice has no score.
        """
        from posttrain.rollout.journal import read_rollout

        prompts = [prompt for prompt, refs in groups for _ in refs]
        rollouts = [
            read_rollout(ref, "", prompt.token_ids) for prompt, refs in groups for ref in refs
        ]
        outcomes = iter(self.score_answers(prompts, rollouts))
        return [_scoring(list(islice(outcomes, len(refs)))) for _, refs in groups]

    def score_answers(
        self, prompts: Sequence[Prompt], rollouts: Sequence[Rollout]
    ) -> list[Score | RewardBroken]:
        """One entry per answer. Raises RewardBroken where the reward cannot be used at all."""
        if self._trouble is not None:
            raise self._trouble
        rows: Sequence[Mapping[str, Any]] = [prompt.row for prompt in prompts]
        if self._columns is not None:
            rows = self._columns.rows(prompts, rollouts)
        answers = [rollout.text for rollout in rollouts]
        found = self._pool.score(rows, answers)  # all at once: judges wait side by side
        if self._watch is not None:
            seen = self._watched(rows, answers)
            found = [_watched(*each) for each in zip(found, seen, strict=True)]
        return found

    def _watched(
        self, rows: Sequence[Mapping[str, Any]], answers: Sequence[str]
    ) -> list[Score | RewardBroken]:
        """What the watching reward says. One that cannot be used ends no training: it is told."""
        assert self._watch is not None
        try:
            return self._watch.score(rows, answers)
        except RewardBroken as error:
            self._tracker.event("watch-broken", message=error.message)
            self._watch.close()
            self._watch = None
            return [error] * len(answers)

    def close(self) -> None:
        if self._trouble is not None:
            return  # nothing was started, or it has ended
        self._pool.close()
        if self._watch is not None:
            self._watch.close()
        self._judges.close()


def _watched(outcome: Score | RewardBroken, seen: Score | RewardBroken) -> Score | RewardBroken:
    """The score with what the watching reward says; without it where that broke."""
    if isinstance(outcome, RewardBroken) or isinstance(seen, RewardBroken):
        return outcome
    return replace(outcome, parts={**outcome.parts, WATCH_PART: seen.value})


def _scoring(outcomes: Sequence[Score | RewardBroken]) -> Scoring:
    return Scoring(
        tuple(None if isinstance(each, RewardBroken) else each for each in outcomes),
        tuple(each.message for each in outcomes if isinstance(each, RewardBroken)),
    )


class TrackerActor:
    """Every stage's files and W&B runs, in one process: what it waits for slows no step."""

    def __init__(self, run_directory: str, wandb_settings: Mapping[str, Any]) -> None:
        from posttrain.track.session import TrackSession

        self._session = TrackSession(Path(run_directory), wandb_settings)
        if _was_restarted():
            self._session.reopen()

    def open(self, stage: Mapping[str, Any]) -> None:
        self._session.open(**stage)

    def log(self, stage: str, metrics: Mapping[str, float], axes: Mapping[str, float]) -> None:
        self._session.stage(stage).log(metrics, **axes)

    def event(self, stage: str, name: str, details: Mapping[str, Any]) -> None:
        self._session.stage(stage).event(name, **details)

    def samples(self, stage: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        self._session.stage(stage).samples(step, rows)

    def spans(self, stage: str, spans: Sequence[Span]) -> None:
        self._session.spans(stage, spans)

    def close_stage(self, stage: str, summary: Mapping[str, Any]) -> dict[str, float]:
        """Everything is on disk when this returns: the last value of each metric."""
        return self._session.close_stage(stage, summary)

    def close(self) -> None:
        self._session.close()


class CoordinatorActor:
    """The coordinator of one online stage. Async: every call runs on one event loop.

    Ray starts it again after its process died: it then goes on from the last commit and the ledger.
    """

    def __init__(
        self,
        job: OnlineJob,
        parts: bytes,
    ) -> None:
        """`parts`, packed: the references of the stage's prompts and of those held out, its
        RewardHandle and its tracker.
        """
        import ray

        from posttrain.checkpoint.store import CheckpointStore
        from posttrain.cluster.handles import RewardCalls
        from posttrain.loop.coordinator import Coordinator
        from posttrain.loop.ledger import Ledger
        from posttrain.prompts.stream import PromptStream
        from posttrain.rollout.journal import is_whole

        prompts, heldout, rewards, tracker = unpacked(parts)
        directory = Path(job.directory)
        commit = CheckpointStore(directory / "checkpoints").latest()
        snapshot = commit.state["coordinator"] if commit else None
        if not _was_restarted():
            ledger = Ledger(directory / LEDGER, snapshot, is_readable=is_whole)
        else:  # beside a trainer that is ahead of its checkpoint: nothing is undone
            ledger = Ledger(directory / LEDGER, snapshot)
            tracker.event("coordinator-restarted", next_step=ledger.state.next_step)
        self._coordinator = Coordinator(
            settings=job.loop,
            prompts=PromptStream(ray.get(prompts), job.loop.seed),
            rewards=RewardCalls(rewards),
            tracker=tracker,
            ledger=ledger,
            journals=directory / JOURNALS,
            heldout=ray.get(heldout),
        )

    async def exchange(self, report: EngineReport) -> Directive:
        return await self._coordinator.exchange(report)

    async def lost_engines(self) -> dict[str, str]:
        return self._coordinator.lost_engines()

    async def engine_died(self, name: str, error: PosttrainError) -> None:
        await self._coordinator.engine_died(name, error)

    async def next_batch(self, step: int) -> StoredBatch | None:
        return await self._coordinator.next_batch(step)

    async def publish(self, version: WeightVersion) -> None:
        await self._coordinator.publish(version)

    async def wait_acknowledged(self, version: int) -> SyncReport:
        return await self._coordinator.wait_acknowledged(version)

    async def engines(self, without: WeightVersion | None = None) -> list[str]:
        return self._coordinator.engines(without)

    async def probe(self) -> list[tuple[Prompt, RolloutRef]]:
        return await self._coordinator.probe()

    async def committed(self, step: int) -> None:
        await self._coordinator.committed(step)

    async def snapshot(self) -> dict[str, Any]:
        return await self._coordinator.snapshot()

    async def stop(self) -> None:
        await self._coordinator.stop()

    async def close(self) -> None:
        await self._coordinator.close()


def packed(*parts: Any) -> bytes:
    """References and handles as bytes, for the constructor of an actor that Ray may start again.

    Given ones that it can see, Ray prints an error: a restarted actor might find them gone. The
    driver keeps them for as long as the stage runs.
    """
    from ray import cloudpickle

    return cloudpickle.dumps(parts)


def unpacked(parts: bytes) -> tuple[Any, ...]:
    return pickle.loads(parts)


def _was_restarted() -> bool:
    """Whether this actor's process follows one of it that died."""
    import ray

    return ray.get_runtime_context().was_current_actor_reconstructed
