"""The trainer of one online stage: batch, step, publish, check, save. Algorithm-blind, Ray-free.

    next_batch(step) -> read -> step -> publish(version step+1) -> now and then: compare log-probs,
    save

Runs in every rank. The first one alone speaks with the coordinator, and tells the others what it
heard; all read the rollouts from the engines' journals themselves. What puts weights together
(publishing, saving) needs all of them.

The trainer blocks in `next_batch` (until the coordinator has a batch) and in `publish` (until every
engine has the weights *before* these). It ends when all steps are done, or when the coordinator
answers None: then it saves what it has and leaves the stage to be resumed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torch import Tensor

from posttrain.errors import StageFailed, WeightsDiffer
from posttrain.ports import CheckpointPort, StoredCheckpoint, Tracker, TrainPort
from posttrain.train.ranks import Ranks
from posttrain.train.rl_batch import batch_metrics, flatten
from posttrain.train.rl_step import RlTrainer
from posttrain.train.rollout_store import RolloutStore, rows
from posttrain.train.stop_rules import StopWatch, stop_rules
from posttrain.types import (
    Prompt,
    Rollout,
    RolloutRef,
    StoredBatch,
    TrainBatch,
    WeightVersion,
)

LOGPROB_GAP_LIMIT_NATS = {"fp32": 1e-3, "bf16": 0.15}  # largest honest gap, measured per precision
SAMPLE_TABLES = 10  # sample tables over a stage
SAMPLE_ROWS = 16
STOP_WATCH = "stop_watch"  # its key in a checkpoint's state

Probes = Sequence[tuple[Prompt, RolloutRef]]


@dataclass(frozen=True, slots=True)
class RlSettings:
    """What one online stage asks of its trainer."""

    directory: Path  # the stage's folder
    num_steps: int
    checkpoint_every: int
    logprob_check_every: int  # syncs
    precision: str
    sync_every: int = 1  # steps between two publications
    stop_at_members_std: float | None = None  # training ends early where an ensemble differs more
    stop_at_kl: float | None = None  # or where an answer's KL to the start is more nats


@dataclass(frozen=True, slots=True)
class RlParts:
    """What the loop works with; each can be replaced in a test.

    The first rank alone uses `port`, `checkpoints.save`, `write_weights` and `announced`, and logs.
    """

    trainer: RlTrainer
    port: TrainPort
    checkpoints: CheckpointPort
    tracker: Tracker
    write_weights: Callable[[Mapping[str, Tensor], int], WeightVersion]
    read_batch: Callable[[StoredBatch], TrainBatch]
    read_probes: Callable[[Probes], Sequence[Rollout]]
    ranks: Ranks = field(default_factory=Ranks)
    # New weights are announced, and every engine has acknowledged those before them.
    announced: Callable[[WeightVersion], None] = lambda version: None


def run_training(settings: RlSettings, parts: RlParts) -> Literal["done", "stopped"]:
    """Train until all steps are done or a stop is asked for. Raises WeightsDiffer, StageFailed."""
    checkpoint = _restore(parts)
    step = checkpoint.step if checkpoint else 0
    _publish(parts, step)
    first = step
    parts.ranks.from_first(
        lambda: parts.port.wait_acknowledged(first), f"the engines to take version {first}"
    )
    saved = step
    store = RolloutStore(settings.directory / "rollouts")
    watch = StopWatch(
        stop_rules(settings.stop_at_members_std, settings.stop_at_kl),
        checkpoint.state.get(STOP_WATCH) if checkpoint else None,
    )
    while step < settings.num_steps and watch.reason is None:
        with _span(parts, f"wait for batch {step}"):
            batch = _next_batch(parts, step)
        if batch is None:
            break
        with _span(parts, f"step {step}"):
            metrics = _train(settings, parts, batch, store)
        step += 1
        watch.after(metrics)
        num_syncs, rest = divmod(step, settings.sync_every)
        if rest == 0:
            with _span(parts, f"publish v{step}"):
                _publish(parts, step)
            if num_syncs % settings.logprob_check_every == 0 or num_syncs == 1:
                with _span(parts, "compare log-probs"):
                    metrics |= _compare_logprobs(settings, parts, step)
        if parts.ranks.is_first:
            tokens = parts.trainer.policy.tokens_seen
            parts.tracker.log(metrics, step=step - 1, version=step, tokens=tokens)
        if step % settings.checkpoint_every == 0:
            with _span(parts, f"save step {step}"):
                _save(parts, step, watch)
            saved = step
    if watch.reason is not None:
        if parts.ranks.is_first:
            parts.tracker.event("stopped-early", step=step, text=watch.reason)
    elif step < settings.num_steps:
        if saved < step:
            _save(parts, step, watch)
        return "stopped"
    parts.trainer.policy.export(settings.directory / "model")
    return "done"


@contextmanager
def _span(parts: RlParts, name: str) -> Iterator[None]:
    """Put what is done meanwhile into the trace, on this rank's row."""
    began_s = time.time()
    try:
        yield
    finally:
        parts.tracker.span(f"trainer {parts.ranks.rank}", name, began_s, time.time())


def _next_batch(parts: RlParts, step: int) -> TrainBatch | None:
    what = f"the batch of step {step}"
    stored = parts.ranks.from_first(lambda: parts.port.next_batch(step), what)
    if stored is None:
        return None
    return parts.ranks.together(lambda: parts.read_batch(stored), f"reading {what}")


def _train(
    settings: RlSettings, parts: RlParts, batch: TrainBatch, store: RolloutStore
) -> dict[str, float]:
    began = time.monotonic()
    flat = flatten(batch)
    metrics = batch_metrics(batch, flat, parts.trainer.compares_answers)
    metrics |= parts.trainer.step(flat, batch.step, settings.num_steps)
    busy_s = time.monotonic() - began
    if batch.step % max(1, settings.num_steps // SAMPLE_TABLES) == 0 and parts.ranks.is_first:
        parts.tracker.samples(batch.step, rows(batch, SAMPLE_ROWS))
    twice = parts.ranks.from_first(
        lambda: store.write(batch), f"writing the rollouts of step {batch.step}"
    )
    return metrics | {
        "ops/trained_twice": float(twice),
        "train/step_time_s": busy_s,
        "train/tokens_per_s": metrics["train/tokens"] / busy_s,
        "trainer/busy_share": busy_s / (busy_s + batch.waited_s),
    }


def _publish(parts: RlParts, step: int) -> None:
    """All put the weights together; the first writes them and tells the engines."""
    weights = parts.trainer.policy.published_weights()

    def publish() -> None:
        version = parts.write_weights(weights, step)
        parts.port.publish(version)
        parts.announced(version)

    parts.ranks.from_first(publish, f"publishing version {step}")


def _compare_logprobs(settings: RlSettings, parts: RlParts, step: int) -> dict[str, float]:
    """Engine and trainer on the same tokens, under the same version. Raises WeightsDiffer."""

    def ask() -> Probes:
        parts.port.wait_acknowledged(step)
        return parts.port.probe()

    what = f"answers of version {step} to compare log-probs"
    probes = parts.ranks.from_first(ask, what)
    rollouts = parts.ranks.together(lambda: parts.read_probes(probes), f"reading {what}")
    gaps = logprob_gaps(parts.trainer, rollouts)
    limit = LOGPROB_GAP_LIMIT_NATS[settings.precision]
    worst = max(gaps, key=lambda gap: math.inf if math.isnan(gap) else gap)
    if not worst <= limit:  # NaN is beyond every limit
        raise WeightsDiffer(
            f"engine and trainer differ by {worst:.2g} nats on the same tokens (limit {limit:g})",
            help="the checksums agree, so it is not the transfer; probably temperature or log-prob "
            "mode. posttrain resume goes on from the last checkpoint",
        )
    return {
        "weights/logprob_gap_max_nats": worst,
        "weights/logprob_gap_mean_nats": sum(gaps) / len(gaps),
    }


def logprob_gaps(trainer: RlTrainer, probes: Sequence[Rollout]) -> list[float]:
    """|trainer - engine| in nats for every token that the engine sampled; at least one entry."""
    if not probes:
        return [0.0]
    engine = [value for rollout in probes for value in rollout.logprobs]
    own = trainer.logprobs(probes).tolist()
    return [abs(a - b) for a, b in zip(engine, own, strict=True)] or [0.0]


def _restore(parts: RlParts) -> StoredCheckpoint | None:
    checkpoint = parts.ranks.together(parts.checkpoints.latest, "reading the last checkpoint")
    own = checkpoint.step if checkpoint else 0
    step = parts.ranks.broadcast_object(own, "the step of the last checkpoint")
    parts.ranks.together(lambda: _require_same(own, step), "comparing their checkpoints")
    if checkpoint is None:
        return None
    parts.trainer.load(checkpoint.load_model(), checkpoint.load_optimiser())
    if parts.ranks.is_first:
        parts.tracker.event("restored", step=checkpoint.step)
    return checkpoint


def _require_same(own: int, step: int) -> None:
    """Ranks that go on from different checkpoints would mix their weights, and say nothing."""
    if own != step:
        raise StageFailed(
            f"a rank sees the checkpoint of step {own}, the first one that of step {step}",
            help="every node has to see the run's folder as it is; posttrain resume tries again",
        )


def _save(parts: RlParts, step: int, watch: StopWatch) -> None:
    """One atomic unit: weights, optimiser, random states, and what coordinator and watch know."""
    weights, optimiser = parts.trainer.weights(), parts.trainer.state()

    def commit() -> None:
        state = {"coordinator": parts.port.snapshot(), STOP_WATCH: watch.state()}
        parts.checkpoints.save(step, weights, optimiser, state)
        parts.port.committed(step)
        parts.tracker.event("saved", step=step)

    parts.ranks.from_first(commit, f"the checkpoint of step {step}")
