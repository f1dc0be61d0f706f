"""The records that cross from one part to another. No part passes a bare dict to the next.

Shape legend, here and everywhere: `B` sequences, `T` tokens, `P` prompt tokens, `G` groups (one per
prompt draw), `K` samples per group. Log-probs are in nats. A `version` counts publications of the
trainer's weights: 0 is what the stage started from, v is what v optimiser batches made of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Message = Mapping[str, str]  # {"role": "user" | "assistant" | "system", "content": ...}


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question, ready to be asked.

    Example: Prompt("microworld/arithmetic/17", "microworld/arithmetic", (5, 3, 12), "7+58=",
    {"answer": "65"})
    """

    id: str  # source and row number: stable over runs
    source: str  # where it came from; metrics and rewards are told apart by it
    token_ids: tuple[int, ...]  # [P] rendered with the chat template, ready for the engine
    text: str  # the same as text, for people
    row: Mapping[str, Any]  # the row's other columns; the reward reads its answer here


@dataclass(frozen=True, slots=True)
class Rollout:
    """Everything after one prompt: the policy's tokens, and those an environment put between them.

    Example: Rollout("12", 0, (5, 3, 12), (9, 7, 2), (1, 1, 1), (-0.1, -0.7, -0.01), (3, 3, 4),
    "65", "stop")  # sampled under version 3, its last token under version 4
    """

    group_id: str
    sample: int  # 0..K-1; -1 is the greedy rollout of algorithms that need one
    prompt_ids: tuple[int, ...]  # [P]
    token_ids: tuple[int, ...]  # [T] with the end-of-turn token where it was sampled
    mask: tuple[int, ...]  # [T] 1 where the policy chose the token, 0 where an environment did
    logprobs: tuple[float, ...]  # [T] of the behaviour policy, at the temperature sampled with
    versions: tuple[int, ...]  # [T] the weight version that produced each token
    text: str
    finish: Literal["stop", "length"]  # "length": cut off at the token limit


@dataclass(frozen=True, slots=True)
class RolloutGroup:
    """K answers to one prompt draw. `start_version`: what the engine acknowledged at the start."""

    id: str  # f"{draw}": the draw's number in the stage's prompt stream
    draw: int
    prompt: Prompt
    rollouts: tuple[Rollout, ...]  # K
    start_version: int
    greedy: Rollout | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """What a reward says of one answer. A wrong answer is 0; a broken verifier raises instead.

    Example: Score(1.0, passed=True, parts={"format": 1.0, "correct": 1.0})
    """

    value: float
    passed: bool | None = None  # None where right and wrong mean nothing (a reward model)
    parts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """A group with one score per rollout, in the rollouts' order."""

    group: RolloutGroup
    scores: tuple[Score, ...]  # K
    greedy_score: Score | None = None


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """One comparison. Example: PreferencePair(prompt, chosen="65", rejected="64")"""

    prompt: Prompt
    chosen: str
    rejected: str


@dataclass(frozen=True, slots=True)
class TrainBatch:
    """What one optimiser batch is made of, sorted by (draw, sample)."""

    step: int  # 0-based; training it makes version step + 1
    groups: tuple[ScoredGroup, ...]  # G
    waited_s: float = 0.0  # how long the trainer waited for it


@dataclass(frozen=True, slots=True)
class WeightVersion:
    """One publication of the trainer's weights.

    Example: WeightVersion(attempt=0, version=24, checksum="9f…", location="/dev/shm/…/24.bin")
    """

    attempt: int  # how often the trainer was started before
    version: int
    checksum: str  # of names, shapes, dtypes and bytes: see weight_sync.checksum
    location: str  # where an engine on this host can read it
    num_bytes: int = 0


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What the engines answered to one publication."""

    version: int
    checksums_agree: bool
    sync_ms: float  # from the call to the last acknowledgement
    stall_ms: float  # for how long generation stood still, the worst engine


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample. Log-probs returned are those of the distribution sampled from."""

    max_new_tokens: int
    temperature: float = 1.0  # 0 is greedy
    seed: int | None = None  # of the request; None: unseeded


@dataclass(frozen=True, slots=True)
class Interval:
    """A measured value with its 95 % interval. Shares are 0..1."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}


ArtifactType = Literal["model", "reward_models", "dataset", "measurements"]


@dataclass(frozen=True, slots=True)
class Artifact:
    """What a finished stage leaves behind.

    Example: Artifact("model", "sft", "4f1c9a2e", "runs/quickstart/sft/4f1c9a2e/model")
    """

    type: ArtifactType
    stage: str
    identity: str
    path: str  # absolute
