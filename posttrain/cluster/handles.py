"""Actors as ports: picklable handles with deadlines, for the coordinator, the trainer and the
stages.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from posttrain.cluster import calls
from posttrain.errors import PosttrainError, ProcessDied, RewardBroken, StageFailed
from posttrain.track.spans import Span, SpanBuffer
from posttrain.types import (
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

# Longer than the coordinator's own deadlines, which name the culprit more closely; these are the
# last net.
ENGINE_START_S = 1200.0  # a large model is read for minutes, and room may have to be waited for
LONGEST_CALL_S = 7200.0
EXCHANGE_S = 60.0  # the coordinator answers within seconds, news or not
MOST_GROUPS = 32  # scored in one call: a slow verifier holds back no more than these
RESTART_PAUSE_S = 1.0  # between two tries to reach a coordinator that Ray restarts


@dataclass(frozen=True, slots=True)
class EngineHandle:
    """An EngineActor: the blocking calls that evaluation uses, and `serve` for a stage."""

    actor: Any
    name: str

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


@dataclass(frozen=True, slots=True)
class RewardHandle:
    """A RewardActor; Ray repeats a call that its death interrupts."""

    actor: Any

    async def score_many(
        self, groups: Sequence[tuple[Prompt, Sequence[RolloutRef]]]
    ) -> Sequence[Scoring]:
        return await calls.answer(
            self.actor.score_many.remote(groups),
            LONGEST_CALL_S,
            f"the reward worker to score {len(groups)} group(s)",
        )


@dataclass(frozen=True, slots=True)
class ScorerHandle:
    """The same actor, for whoever has the answers at hand: blocking calls."""

    actor: Any

    def score(
        self, prompts: Sequence[Prompt], rollouts: Sequence[Rollout]
    ) -> list[Score | RewardBroken]:
        reference = self.actor.score_answers.remote(prompts, rollouts)
        what = f"the reward worker to score {len(rollouts)} answers"
        found: list[Score | RewardBroken] = calls.get(reference, LONGEST_CALL_S, what)
        return found


class RewardCalls:
    """RewardPort that sends what is asked for at the same moment in one message.

    A message costs its sender half a millisecond: one per group would bound a coordinator to two
    thousand groups per second.
    """

    def __init__(self, handle: RewardHandle) -> None:
        self._handle = handle
        self._asked: list[_Asked] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def score(self, prompt: Prompt, refs: Sequence[RolloutRef]) -> Scoring:
        loop = asyncio.get_running_loop()
        if not self._asked:
            loop.call_soon(self._send)
        asked = _Asked(prompt, refs, loop.create_future())
        self._asked.append(asked)
        return await asked.answer

    def _send(self) -> None:
        asked, self._asked = self._asked, []
        for start in range(0, len(asked), MOST_GROUPS):
            work = self._score(asked[start : start + MOST_GROUPS])
            task = asyncio.get_running_loop().create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _score(self, asked: Sequence[_Asked]) -> None:
        try:
            scorings = await self._handle.score_many([(each.prompt, each.refs) for each in asked])
        except PosttrainError as error:
            for each in asked:
                if not each.answer.done():
                    each.answer.set_exception(error)
            return
        for each, scoring in zip(asked, scorings, strict=True):
            if not each.answer.done():  # else its group was dropped meanwhile
                each.answer.set_result(scoring)


@dataclass(frozen=True, slots=True)
class _Asked:
    prompt: Prompt
    refs: Sequence[RolloutRef]
    answer: asyncio.Future[Scoring]


@dataclass(frozen=True, slots=True)
class TrackerHandle:
    """Tracker over the TrackerActor: sends and forgets, so a slow disk or W&B slows no step."""

    actor: Any
    stage: str
    _spans: SpanBuffer = field(default_factory=SpanBuffer, compare=False, repr=False)

    def log(self, metrics: Mapping[str, float], **axes: float) -> None:
        self.actor.log.remote(self.stage, dict(metrics), axes)

    def event(self, name: str, **details: Any) -> None:
        self.actor.event.remote(self.stage, name, details)

    def samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        self.actor.samples.remote(self.stage, step, list(rows))

    def span(self, track: str, name: str, start_s: float, end_s: float, **details: Any) -> None:
        """Gathered for half a second: one message for thousands of spans."""
        self._spans.add(Span(track, name, start_s, end_s, details), self._send_spans)

    def _send_spans(self, spans: list[Span]) -> None:
        """In the buffer's thread, perhaps after Ray has gone: there is nobody left to tell then."""
        with contextlib.suppress(ray.exceptions.RayError):
            self.actor.spans.remote(self.stage, spans)


@dataclass(frozen=True, slots=True)
class CoordinatorLink:
    """CoordinatorPort over the CoordinatorActor, for engines. A coordinator that died raises
    ProcessDied: the worker keeps what it has to tell until it is back.
    """

    actor: Any

    async def exchange(self, report: EngineReport) -> Directive:
        return await calls.answer(
            self.actor.exchange.remote(report), EXCHANGE_S, "the coordinator to answer a report"
        )


@dataclass(frozen=True, slots=True)
class CoordinatorHandle:
    """TrainPort over the CoordinatorActor, found by name from inside a Ray Train worker.

    Every method may be called twice with the same result, so a call that the coordinator's death
    interrupts is made again once Ray has restarted it.
    """

    actor_name: str
    namespace: str
    batch_deadline_s: float

    def next_batch(self, step: int) -> StoredBatch | None:
        what = f"the coordinator to give the batch of step {step}"
        return self._call("next_batch", what, step, deadline_s=self.batch_deadline_s)

    def publish(self, version: WeightVersion) -> None:
        what = f"the engines to take the version before {version.version}"
        self._call("publish", what, version)

    def wait_acknowledged(self, version: int) -> SyncReport:
        return self._call("wait_acknowledged", f"the engines to take version {version}", version)

    def engines(self, without: WeightVersion | None = None) -> Sequence[str]:
        return self._call("engines", "the coordinator to name its engines", without)

    def probe(self) -> Sequence[tuple[Prompt, RolloutRef]]:
        return self._call("probe", "the engines to be probed")

    def committed(self, step: int) -> None:
        self._call("committed", "the coordinator to note a commit", step)

    def snapshot(self) -> Mapping[str, Any]:
        return self._call("snapshot", "the coordinator to give its state")

    def _call(self, method: str, what: str, *args: Any, deadline_s: float = LONGEST_CALL_S) -> Any:
        give_up_at = time.monotonic() + deadline_s
        while True:
            left_s = max(0.1, give_up_at - time.monotonic())
            try:
                return calls.get(getattr(self._actor(), method).remote(*args), left_s, what)
            except ProcessDied:
                if time.monotonic() + RESTART_PAUSE_S > give_up_at:
                    raise
                time.sleep(RESTART_PAUSE_S)

    def _actor(self) -> Any:
        try:
            return ray.get_actor(self.actor_name, namespace=self.namespace)
        except ValueError as error:  # dead for good, or its restarts are used up
            raise StageFailed("the coordinator's process is gone") from error
