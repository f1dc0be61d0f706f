"""Actors: thin wrappers that give our plain classes a process of their own.

Heavy imports happen inside the constructors, in the actor's process, so that importing this module
costs the driver nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.errors import RewardBroken
from posttrain.ports import EngineSpec, RewardPort, RolloutPort, Tracker
from posttrain.stages.jobs import OnlineJob
from posttrain.types import (
    Prompt,
    Rollout,
    RolloutGroup,
    Sampling,
    Score,
    SyncReport,
    TrainBatch,
    WeightVersion,
)


class EngineActor:
    """One vLLM engine. Async: many generate calls are under way at once."""

    def __init__(self, spec: EngineSpec, name: str) -> None:
        os.environ["OMP_NUM_THREADS"] = str(spec.cpus)
        from posttrain.rollout.vllm_engine import VllmEngine

        self._engine = VllmEngine(spec, name)

    async def start(self) -> int:
        """Start the engine; returns its process id."""
        await self._engine.start()
        return os.getpid()

    async def generate(
        self, group_id: str, prompt: Prompt, num_samples: int, sampling: Sampling
    ) -> tuple[int, Sequence[Rollout]]:
        return await self._engine.generate(group_id, prompt, num_samples, sampling)

    async def generate_many(self, prompts: list[Prompt], sampling: Sampling) -> list[Rollout]:
        return await self._engine.generate_many(prompts, sampling)

    async def token_logprobs(
        self, sequences: list[tuple[Sequence[int], Sequence[int]]]
    ) -> list[list[float]]:
        return await self._engine.token_logprobs(sequences)

    async def load_model_folder(self, path: str) -> None:
        await self._engine.load_model_folder(path)

    async def update_weights(self, version: WeightVersion) -> SyncReport:
        return await self._engine.update_weights(version)

    async def stats(self) -> Mapping[str, float]:
        return await self._engine.stats()

    async def shutdown(self) -> None:
        await self._engine.shutdown()


class RewardActor:
    """Scores answers in killable child processes of its own."""

    def __init__(self, name: str, settings: Mapping[str, Any], timeout_s: float) -> None:
        from posttrain.reward.worker import RewardPool

        self._pool = RewardPool(name, settings, timeout_s)

    def score(self, group: RolloutGroup) -> list[Score]:
        """One score per rollout. RewardBroken where the verifier failed twice on an answer."""
        rows = [group.prompt.row] * len(group.rollouts)
        scores: list[Score] = []
        for result in self._pool.score(rows, [rollout.text for rollout in group.rollouts]):
            if isinstance(result, RewardBroken):
                raise result
            scores.append(result)
        return scores

    def close(self) -> None:
        self._pool.close()


class TrackerActor:
    """Every stage's files and W&B runs, in one process: what it waits for slows no step."""

    def __init__(self, run_directory: str, wandb_settings: Mapping[str, Any]) -> None:
        from posttrain.track.session import TrackSession

        self._session = TrackSession(Path(run_directory), wandb_settings)

    def open(self, stage: Mapping[str, Any]) -> None:
        self._session.open(**stage)

    def log(self, stage: str, metrics: Mapping[str, float], axes: Mapping[str, float]) -> None:
        self._session.stage(stage).log(metrics, **axes)

    def event(self, stage: str, name: str, details: Mapping[str, Any]) -> None:
        self._session.stage(stage).event(name, **details)

    def samples(self, stage: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        self._session.stage(stage).samples(step, rows)

    def close_stage(self, stage: str, summary: Mapping[str, Any]) -> dict[str, float]:
        """Everything is on disk when this returns: the last value of each metric."""
        return self._session.close_stage(stage, summary)

    def close(self) -> None:
        self._session.close()


class CoordinatorActor:
    """The coordinator of one online stage. Async: every call runs on one event loop."""

    def __init__(
        self,
        job: OnlineJob,
        engines: Sequence[RolloutPort],
        rewards: RewardPort,
        tracker: Tracker,
        snapshot: Mapping[str, Any] | None,
    ) -> None:
        from posttrain.loop.coordinator import Coordinator
        from posttrain.loop.ledger import Ledger
        from posttrain.prompts.stream import PromptStream

        self._coordinator = Coordinator(
            settings=job.loop,
            prompts=PromptStream(job.prompts, job.loop.seed),
            engines=engines,
            rewards=rewards,
            tracker=tracker,
            ledger=Ledger(Path(job.directory) / "ledger.jsonl"),
            snapshot=snapshot,
        )

    async def next_batch(self, step: int) -> TrainBatch | None:
        return await self._coordinator.next_batch(step)

    async def publish(self, version: WeightVersion) -> SyncReport:
        return await self._coordinator.publish(version)

    async def probe(self) -> list[Rollout]:
        return await self._coordinator.probe()

    async def committed(self, step: int) -> None:
        await self._coordinator.committed(step)

    async def snapshot(self) -> dict[str, Any]:
        return await self._coordinator.snapshot()

    async def stop(self) -> None:
        await self._coordinator.stop()

    async def close(self) -> None:
        await self._coordinator.close()
