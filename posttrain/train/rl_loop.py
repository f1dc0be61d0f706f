"""The trainer of one online stage: batch, step, publish, check, save. Algorithm-blind, Ray-free.

    next_batch(step) -> train_step -> publish(version step+1) -> now and then: compare log-probs,
    save

The trainer blocks in `next_batch` (until the coordinator has a batch) and in `publish` (until every
engine has the new weights). It ends when all steps are done, or when the coordinator answers None:
then it saves what it has and leaves the stage to be resumed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from posttrain.errors import WeightsDiffer
from posttrain.ports import CheckpointPort, Tracker, TrainPort
from posttrain.train.rl_batch import batch_metrics, flatten
from posttrain.train.rl_step import RlTrainer
from posttrain.train.rollout_store import rows, write_rollouts
from posttrain.types import Rollout, TrainBatch, WeightVersion

LOGPROB_GAP_LIMIT_NATS = {"fp32": 1e-3, "bf16": 0.15}  # largest honest gap, measured per precision
SAMPLE_TABLES = 10  # sample tables over a stage
SAMPLE_ROWS = 16


@dataclass(frozen=True, slots=True)
class RlSettings:
    """What one online stage asks of its trainer."""

    directory: Path  # the stage's folder
    num_steps: int
    checkpoint_every: int
    logprob_check_every: int
    precision: str


@dataclass(frozen=True, slots=True)
class RlParts:
    """What the loop works with; each can be replaced in a test."""

    trainer: RlTrainer
    port: TrainPort
    checkpoints: CheckpointPort
    tracker: Tracker
    write_weights: Callable[[Mapping[str, Tensor], int], WeightVersion]


def run_training(settings: RlSettings, parts: RlParts) -> Literal["done", "stopped"]:
    """Train until all steps are done or a stop is asked for. Raises WeightsDiffer, StageFailed."""
    step = _restore(parts)
    parts.port.publish(parts.write_weights(parts.trainer.published_weights(), step))
    saved = step
    while step < settings.num_steps:
        batch = parts.port.next_batch(step)
        if batch is None:
            break
        metrics = _train(settings, parts, batch)
        step += 1
        parts.port.publish(parts.write_weights(parts.trainer.published_weights(), step))
        if step % settings.logprob_check_every == 0 or step == 1:
            metrics |= _compare_logprobs(settings, parts)
        parts.tracker.log(metrics, step=step - 1, version=step, tokens=parts.trainer.tokens_seen)
        if step % settings.checkpoint_every == 0:
            _save(parts, step)
            saved = step
    if step < settings.num_steps:
        if saved < step:
            _save(parts, step)
        return "stopped"
    parts.trainer.export(settings.directory / "model")
    return "done"


def _train(settings: RlSettings, parts: RlParts, batch: TrainBatch) -> dict[str, float]:
    began = time.monotonic()
    flat = flatten(batch)
    metrics = batch_metrics(batch, flat) | parts.trainer.step(flat, batch.step, settings.num_steps)
    busy_s = time.monotonic() - began
    write_rollouts(settings.directory / "rollouts", batch)
    if batch.step % max(1, settings.num_steps // SAMPLE_TABLES) == 0:
        parts.tracker.samples(batch.step, rows(batch)[:SAMPLE_ROWS])
    return metrics | {
        "train/step_time_s": busy_s,
        "train/tokens_per_s": metrics["train/tokens"] / busy_s,
        "trainer/busy_share": busy_s / (busy_s + batch.waited_s),
    }


def _compare_logprobs(settings: RlSettings, parts: RlParts) -> dict[str, float]:
    """Engine and trainer on the same tokens, under the same version. Raises WeightsDiffer."""
    gaps = logprob_gaps(parts.trainer, parts.port.probe())
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
    engine = [value for rollout in probes for value in rollout.logprobs]
    own = trainer.logprobs(probes).tolist()
    return [abs(a - b) for a, b in zip(engine, own, strict=True)] or [0.0]


def _restore(parts: RlParts) -> int:
    checkpoint = parts.checkpoints.latest()
    if checkpoint is None:
        return 0
    parts.trainer.load(checkpoint.load_model(), checkpoint.load_optimiser())
    parts.tracker.event("restored", step=checkpoint.step)
    return checkpoint.step


def _save(parts: RlParts, step: int) -> None:
    """One atomic unit: weights, optimiser, random state, and what the coordinator knows."""
    snapshot = parts.port.snapshot()
    parts.checkpoints.save(
        step, parts.trainer.weights(), parts.trainer.optimiser_state(), {"coordinator": snapshot}
    )
    parts.port.committed(step - 1)
    parts.tracker.event("saved", step=step)
