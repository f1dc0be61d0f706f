"""What stages ask of whoever runs processes. `cluster` implements it with Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from posttrain.errors import RewardBroken
from posttrain.ports import EngineSpec, Tracker
from posttrain.stages.jobs import OfflineJob, OnlineJob, ScoringJob
from posttrain.types import Prompt, Rollout, Sampling, Score


class LeasedEngine(Protocol):
    """An engine as evaluation uses it: blocking calls."""

    def generate_many(self, prompts: list[Prompt], sampling: Sampling) -> list[Rollout]:
        """One answer per prompt, in their order."""
        ...

    def token_logprobs(
        self, sequences: list[tuple[Sequence[int], Sequence[int]]]
    ) -> list[list[float]]:
        """Log-probs in nats of each sequence's second part after its first."""
        ...

    def load_model_folder(self, path: str) -> None: ...


class Scorer(Protocol):
    """What scores answers, in a process of its own: a blocking call."""

    def score(
        self, prompts: Sequence[Prompt], rollouts: Sequence[Rollout]
    ) -> list[Score | RewardBroken]:
        """One entry per answer. Raises RewardBroken where the reward cannot be used at all."""
        ...


class Launcher(Protocol):
    """Runs functions in processes. The only thing that stages know of Ray."""

    def call(
        self, function: Callable[..., Any], *args: Any, cpus: int = 1, deadline_s: float = 7200
    ) -> Any:
        """Run once in a process of its own and return what it returns."""
        ...

    def run_offline(self, job: OfflineJob, tracker: Tracker) -> str:
        """Train inside Ray Train. "done", or "stopped" where a stop was asked for."""
        ...

    def put_together(self, job: OfflineJob, tracker: Tracker) -> None:
        """Make one artifact of an ensemble's members that several workers have trained."""
        ...

    def run_online(self, job: OnlineJob, tracker: Tracker) -> str:
        """Engines, reward workers, coordinator and trainers of one stage. "done" or "stopped"."""
        ...

    def engines(
        self, spec: EngineSpec, count: int
    ) -> AbstractContextManager[Sequence[LeasedEngine]]:
        """Lease engines with the weights of `spec.model_path`; they go back at the end."""
        ...

    def scorer(self, job: ScoringJob, tracker: Tracker) -> AbstractContextManager[Scorer]:
        """Start what scores; it ends with the block."""
        ...

    def stop_asked(self) -> bool:
        """Whether somebody wants the run to save what it has and end."""
        ...

    def prewarm(self, spec: EngineSpec, count: int) -> None:
        """Begin to start engines that will be leased soon; returns at once."""
        ...
