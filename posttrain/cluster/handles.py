"""Actors as ports: picklable handles with deadlines, for the coordinator, the trainer and the
stages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from posttrain.cluster import calls
from posttrain.errors import DeadlineExceeded, EngineFailed, StageFailed
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

# Longer than the coordinator's own deadlines, which name the culprit more closely; these are the
# last net.
ENGINE_START_S = 300.0
LONGEST_CALL_S = 7200.0


@dataclass(frozen=True, slots=True)
class EngineHandle:
    """RolloutPort over an EngineActor, and the blocking calls that evaluation uses."""

    actor: Any
    name: str

    async def generate(
        self, group_id: str, prompt: Prompt, num_samples: int, sampling: Sampling
    ) -> tuple[int, Sequence[Rollout]]:
        reference = self.actor.generate.remote(group_id, prompt, num_samples, sampling)
        return await self._answer(reference, f"prompt {prompt.id}")

    async def update_weights(self, version: WeightVersion) -> SyncReport:
        reference = self.actor.update_weights.remote(version)
        return await self._answer(reference, f"weights {version.version}")

    async def stats(self) -> Mapping[str, float]:
        return await self._answer(self.actor.stats.remote(), "its statistics")

    def generate_many(self, prompts: list[Prompt], sampling: Sampling) -> list[Rollout]:
        return self._get(self.actor.generate_many.remote(prompts, sampling), "answers")

    def token_logprobs(
        self, sequences: list[tuple[Sequence[int], Sequence[int]]]
    ) -> list[list[float]]:
        return self._get(self.actor.token_logprobs.remote(sequences), "log-probs")

    def load_model_folder(self, path: str) -> None:
        self._get(self.actor.load_model_folder.remote(path), f"the weights of {path}")

    def _get(self, reference: Any, what: str) -> Any:
        return calls.get(reference, LONGEST_CALL_S, f"engine {self.name} to give {what}")

    async def _answer(self, reference: Any, what: str) -> Any:
        """An engine that died is EngineFailed: its work can go to another."""
        try:
            return await calls.answer(
                reference, LONGEST_CALL_S, f"engine {self.name} to answer for {what}"
            )
        except (StageFailed, DeadlineExceeded) as error:
            raise EngineFailed(error.message, place=f"engine {self.name}") from error


@dataclass(frozen=True, slots=True)
class RewardHandle:
    """RewardPort over a RewardActor."""

    actor: Any

    async def score(self, group: RolloutGroup) -> Sequence[Score]:
        return await calls.answer(
            self.actor.score.remote(group), LONGEST_CALL_S, "the reward worker to score a group"
        )


@dataclass(frozen=True, slots=True)
class TrackerHandle:
    """Tracker over the TrackerActor: sends and forgets, so a slow disk or W&B slows no step."""

    actor: Any
    stage: str

    def log(self, metrics: Mapping[str, float], **axes: float) -> None:
        self.actor.log.remote(self.stage, dict(metrics), axes)

    def event(self, name: str, **details: Any) -> None:
        self.actor.event.remote(self.stage, name, details)

    def samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        self.actor.samples.remote(self.stage, step, list(rows))


@dataclass(frozen=True, slots=True)
class CoordinatorHandle:
    """TrainPort over the CoordinatorActor, found by name from inside a Ray Train worker."""

    actor_name: str
    namespace: str
    batch_deadline_s: float

    def next_batch(self, step: int) -> TrainBatch | None:
        reference = self._actor().next_batch.remote(step)
        return calls.get(
            reference, self.batch_deadline_s, f"the coordinator to give the batch of step {step}"
        )

    def publish(self, version: WeightVersion) -> SyncReport:
        what = f"the engines to take version {version.version}"
        return calls.get(self._actor().publish.remote(version), LONGEST_CALL_S, what)

    def probe(self) -> Sequence[Rollout]:
        return calls.get(self._actor().probe.remote(), LONGEST_CALL_S, "the engines to be probed")

    def committed(self, step: int) -> None:
        calls.get(self._actor().committed.remote(step), LONGEST_CALL_S, "the coordinator")

    def snapshot(self) -> Mapping[str, Any]:
        return calls.get(self._actor().snapshot.remote(), LONGEST_CALL_S, "the coordinator")

    def _actor(self) -> Any:
        try:
            return ray.get_actor(self.actor_name, namespace=self.namespace)
        except ValueError as error:
            raise StageFailed("the coordinator's process is gone") from error
