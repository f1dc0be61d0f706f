"""The records that cross from one part to another. No part passes a bare dict to the next.

Shape legend, here and everywhere: `B` sequences, `T` tokens, `P` prompt tokens, `G` groups (one per
prompt draw), `K` samples per group. Log-probs are in nats. A `version` counts publications of the
trainer's weights: 0 is what the stage started from, v is what v optimiser batches made of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


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
    sample: int  # 0..K-1; K is the greedy rollout of algorithms that need one
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


MOST_SOURCES = 32


def told_apart(sources: Iterable[str]) -> list[str]:
    """The sources of prompts that metrics have names for, sorted: none where there is only one, nor
    beyond MOST_SOURCES, for a column of ids would make a metric of each row.
    """
    found = sorted(set(sources))
    return found if 1 < len(found) <= MOST_SOURCES else []


SCORES_COLUMN = "_reward_models"
"""Of a row that rewards read: what reward models say of the answer. `scores_key` -> one score per
member, standardised; rewards that combine them find them here, for they have no model themselves.
"""
BASELINE_SCORES_COLUMN = "_reward_models_baselines"
"""Of a row that rewards read: what reward models say of answers that the row brings along. Column
of the answer -> stage -> one standardised score per member."""


def scores_key(stage: str, fuse: int = 0) -> str:
    """Where the scores of a stage's reward models stand; `fuse` as of the reward `ensemble`.

    Example: scores_key("rm") is "rm", scores_key("rm", 5) "rm, fuse 5".
    """
    return f"{stage}, fuse {fuse}" if fuse else stage


MEMBERS_STD = "members_std"
"""Part of a score: how far the members of an ensemble differ."""
WATCH_PART = "watch"
"""Part of a score: what the stage's watching reward says of the answer."""
JUDGE_PART = "judge/"
"""Parts of a score with this prefix say whether a constraint holds: 1.0, or less where not."""


@dataclass(frozen=True, slots=True)
class Score:
    """What a reward says of one answer. A wrong answer is 0; a broken verifier raises instead.

    Example: Score(0.0, passed=False, reason="expected 1197, found 1200")
    """

    value: float
    passed: bool | None = None  # None where right and wrong mean nothing (a reward model)
    parts: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""  # one line for people: what was found, and what was expected
    seconds: float = field(default=0.0, compare=False)  # that scoring took


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """A group with one score per rollout, in the rollouts' order."""

    group: RolloutGroup
    scores: tuple[Score, ...]  # K
    greedy_score: Score | None = None


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

    def is_same_as(self, other: WeightVersion) -> bool:
        """Whether these are the same weights, wherever they are sent from."""
        mine, theirs = ((w.attempt, w.version, w.checksum) for w in (self, other))
        return mine == theirs


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


# ---------------------------------------------------------------------------------------------
# What engines and coordinator tell one another: ids and places, never tokens
# ---------------------------------------------------------------------------------------------

Lane = Literal["train", "probe", "evaluation"]


@dataclass(frozen=True, slots=True)
class RolloutRef:
    """Where one finished sample lies: a record of a journal file that every process can read.

    Example: RolloutRef("runs/quickstart/rlvr/4f1c9a2e/journal/0-7f3a-000002.journal", 8192)
    """

    path: str  # absolute
    offset: int  # bytes from the start of the file


@dataclass(frozen=True, slots=True)
class Work:
    """Samples of one prompt draw for one engine.

    `look_in` names journals of engines that had these samples before: a finished sample found there
    is reported as it is, a half-generated one goes on from the tokens it has. Not so where some are
    of weights newer than `newest_version`: after a power cut, those are yet to be trained.
    """

    lane: Lane
    draw: int  # in lane "train" the draw's number in the stage's prompt stream
    samples: tuple[int, ...]  # of 0..K-1 (K: greedy), those this engine shall generate
    prompt: Prompt
    sampling: Sampling  # `seed` is the draw's; sample i is seeded with seed + i
    look_in: tuple[str, ...] = ()
    newest_version: int = 0
    greedy_sample: int | None = None  # this sample is not drawn but takes the likeliest tokens


@dataclass(frozen=True, slots=True)
class FinishedSample:
    """One sample that an engine has generated and written into its journal."""

    lane: Lane
    draw: int
    sample: int
    ref: RolloutRef
    start_version: int  # what the engine had acknowledged when its first token was asked for
    num_tokens: int
    continued_tokens: int = 0  # of them taken over from another engine's journal


@dataclass(frozen=True, slots=True)
class FailedSample:
    """One sample that an engine gives back: it cannot be generated, or took too long."""

    lane: Lane
    draw: int
    sample: int
    reason: str


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What an engine did since its last report, and how full it is now."""

    busy_s: float = 0.0  # spent in steps
    tokens: int = 0  # of finished and running samples
    running: int = 0  # sequences
    waiting: int = 0
    cache_hit_share: float = 0.0


@dataclass(frozen=True, slots=True)
class EngineReport:
    """What an engine tells the coordinator in one exchange.

    Delivered at least once: the engine repeats what the coordinator did not answer for.
    """

    engine: str
    process: str  # of the worker's process; a restarted one is another
    capacity: int  # sequences that it decodes together
    acknowledged: WeightVersion | None  # the weights it computes with; None before the first
    sync: SyncReport | None = None  # once, of the swap to `acknowledged`
    finished: tuple[FinishedSample, ...] = ()
    failed: tuple[FailedSample, ...] = ()
    # Every (lane, draw, sample) it has not finished: in a process' first report, and after an
    # exchange that failed.
    holds: tuple[tuple[Lane, int, int], ...] = ()
    received: int = 0  # `number` of the last directive that arrived; what came after is sent again
    stats: EngineStats = EngineStats()


@dataclass(frozen=True, slots=True)
class Directive:
    """What the coordinator answers to a report."""

    number: int = 0  # counts the directives of one engine's process
    work: tuple[Work, ...] = ()
    weights: WeightVersion | None = None  # take these
    abort: tuple[tuple[Lane, int], ...] = ()  # (lane, draw) that nobody wants any more
    journal: int = 0  # rises when half-generated samples shall be written down, into a new segment
    end: bool = False  # the stage is over


@dataclass(frozen=True, slots=True)
class Scoring:
    """What the reward worker says of one group. A sample whose verifier broke has no score."""

    scores: tuple[Score | None, ...]  # K
    broken: tuple[str, ...] = ()  # what went wrong, one sentence per broken sample


@dataclass(frozen=True, slots=True)
class StoredGroup:
    """A scored group as the coordinator knows it: its tokens stay where the engines wrote them."""

    draw: int
    start_version: int  # the lowest of its samples'
    refs: tuple[RolloutRef, ...]  # K, by sample; K + 1 with a greedy one at the end
    scores: tuple[Score, ...]  # as many


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """What one optimiser batch is made of, sorted by draw; the same whenever it is asked for."""

    step: int  # 0-based; training it makes version step + 1
    groups: tuple[StoredGroup, ...]  # G
    waited_s: float = 0.0  # how long the trainer waited for it


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
