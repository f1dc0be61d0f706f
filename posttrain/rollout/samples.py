"""Samples as the worker and its engine speak of them: asked for one by one, answered one by one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from posttrain.types import Lane, Prompt, Rollout, Sampling, SyncReport, WeightVersion

SampleKey = tuple[Lane, int, int]  # lane, draw, sample


@dataclass(frozen=True, slots=True)
class Partial:
    """What a sample consists of so far.

    Example: Partial((9, 7), (-0.1, -0.7), (3, 4), 3)
    """

    token_ids: tuple[int, ...]  # [T]
    logprobs: tuple[float, ...]  # [T] of whoever sampled them
    versions: tuple[int, ...]  # [T]
    start_version: int  # what its first engine had acknowledged when it was begun


@dataclass(frozen=True, slots=True)
class SampleTask:
    """One sample to generate; with a prefix, to go on with."""

    key: SampleKey
    prompt: Prompt
    sampling: Sampling  # of the draw: `seed` and `max_new_tokens` count from the first token
    prefix: Partial | None = None

    @property
    def num_given(self) -> int:
        """Tokens that somebody else has generated already."""
        return len(self.prefix.token_ids) if self.prefix else 0


@dataclass(frozen=True, slots=True)
class Answer:
    """How a task ended: with a rollout (prefix included), or with the reason why there is none."""

    task: SampleTask
    start_version: int
    rollout: Rollout | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Growth:
    """The tokens of a running sample from `from_token` on."""

    task: SampleTask
    from_token: int
    tokens: Partial


class SampleEngine(Protocol):
    """What a worker asks of its engine. All methods belong to one event loop."""

    def submit(self, tasks: Sequence[SampleTask]) -> None:
        """Begin these samples. One that is refused is answered with the reason."""
        ...

    async def finished(self) -> list[Answer]:
        """Samples that have ended since the last call; waits for the first one.

        Raises EngineFailed where the engine is dead.
        """
        ...

    async def growth(self, known: Mapping[SampleKey, int], at_least: int) -> list[Growth]:
        """What every running sample has beyond the tokens known of it, where that is `at_least`
        as many. Whole and consistent: read between two steps.
        """
        ...

    async def abort(self, keys: Collection[SampleKey]) -> None:
        """Stop generating these; they are not answered any more. Others are ignored."""
        ...

    async def update_weights(self, version: WeightVersion) -> SyncReport:
        """Compute with these weights from the next step on. Raises WeightsGone, WeightsDiffer and
        EngineFailed.
        """
        ...

    async def stats(self) -> Mapping[str, float]:
        """`busy_s`, `tokens`, `cache_hit_share` since the last call; `running`, `waiting` now."""
        ...
