"""What an earlier run of the same stage measured, read from its folder, or `plan --measure` did."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from posttrain.config.measurement import measure_name
from posttrain.track.jsonl import read_jsonl
from posttrain.track.rows import merge_rows
from posttrain.track.run_parts import read_yaml

MIN_STEPS = 3  # fewer say nothing: the first step warms up
MIN_SAMPLES = 64  # for the spread of answer lengths
MIN_BUSY_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Measured:
    """Medians over the steps of one run of a stage; None where it did not log them."""

    path: str = ""  # of the stage's folder
    ended: float = 0.0  # unix time of its last step
    num_steps: int = 0
    answer_tokens: float | None = None
    length_sigma: float | None = None  # of the logarithm of answer lengths
    prompt_tokens: float | None = None
    engine_tokens_per_s: float | None = None  # one engine, while it is busy
    trainer_tokens_per_s: float | None = None  # one trainer, while it is busy
    sync_s: float | None = None
    score_s: float | None = None
    no_signal_share: float | None = None  # of groups, those left out and refilled counted in


def known_figures(run: Path, stage: str) -> Measured:
    """The newest figures of a stage: of a run in its folder, or of `plan --measure` beside it.

    Speeds depend on the sizes of things, which a measurement has from the file. Lengths of answers
    and the share of groups without signal depend on what the model has learnt: they are taken from
    a measurement only where it started from a model that the stage would start from, and else from
    the run, however old.
    """
    real = newest_measured(run, stage)
    beside = run.with_name(measure_name(run.name))
    short = newest_measured(beside, stage)
    if short.ended <= real.ended:
        return real
    if _started_from_a_given_model(beside, stage):
        return short
    return replace(
        short,
        answer_tokens=real.answer_tokens,
        length_sigma=real.length_sigma,
        no_signal_share=real.no_signal_share,
    )


def _started_from_a_given_model(run: Path, stage: str) -> bool:
    """Whether a stage started from a folder or a hub's model, not from two steps of training."""
    stages = read_yaml(run / "pipeline.yaml").get("stages") or {}
    start = stages.get((stages.get(stage) or {}).get("model")) or {}
    return start.get("kind") == "model" and bool(start.get("path"))


def newest_measured(run: Path, stage: str) -> Measured:
    """The stage's newest run in a run folder that took enough steps, whatever its identity.

    Where there is none, a record without any figure.
    """
    files = sorted(
        (run / stage).glob("*/metrics.jsonl"), key=lambda file: file.stat().st_mtime, reverse=True
    )
    for file in files:
        rows = merge_rows(read_jsonl(file))
        if len(rows) >= MIN_STEPS:
            return _measured(run, file.parent, rows[1:])
    return Measured()


def _measured(run: Path, folder: Path, rows: Sequence[Mapping[str, float]]) -> Measured:
    engines, trainers = _processes(run, folder.parent.name)
    config = read_yaml(folder / "config.yaml")
    batch = config.get("batch") or {}
    rollouts = int(batch.get("prompts", 0)) * int(batch.get("samples_per_prompt", 0))
    answer = _median(row.get("answer/length_tokens") for row in rows)
    trained = _median(row.get("train/tokens") for row in rows)
    prompt = None
    if answer is not None and trained is not None and rollouts:
        prompt = max(0.0, trained / rollouts - answer)
    rates = [
        row["engine/tokens_per_s"] / row["engine/busy_share"] / engines
        for row in rows
        if row.get("engine/busy_share", 0.0) > MIN_BUSY_SHARE and row.get("engine/tokens_per_s")
    ]
    trainer = _median(row.get("train/tokens_per_s") for row in rows)
    return Measured(
        path=str(folder),
        ended=(folder / "metrics.jsonl").stat().st_mtime,
        num_steps=len(rows) + 1,
        answer_tokens=answer,
        length_sigma=_sigma(folder),
        prompt_tokens=prompt,
        engine_tokens_per_s=_median(rates),
        trainer_tokens_per_s=trainer / trainers if trainer else None,
        sync_s=_seconds(row.get("weights/sync_ms") for row in rows),
        score_s=_seconds(row.get("verifier/latency_ms") for row in rows),
        no_signal_share=_no_signal(rows),
    )


def _no_signal(rows: Sequence[Mapping[str, float]]) -> float | None:
    """Over all steps: what was refilled is told with each publication, which may be every few."""
    told = [row for row in rows if "groups/no_signal_share" in row]
    trained = sum(row.get("groups/trained", 0.0) for row in told)
    if not trained:
        return None
    without = sum(row["groups/no_signal_share"] * row.get("groups/trained", 0.0) for row in told)
    refilled = sum(row.get("groups/refilled", 0.0) for row in rows)
    return (refilled + without) / (refilled + trained)


def _processes(run: Path, stage: str) -> tuple[int, int]:
    """(engines, trainers) that the earlier run had."""
    document = read_yaml(run / "pipeline.yaml")
    own = ((document.get("stages") or {}).get(stage) or {}).get("resources") or {}
    cluster = document.get("cluster")
    cluster = cluster if isinstance(cluster, Mapping) else {}
    engines = own.get("engines") or cluster.get("engines") or 1
    return int(engines), int(own.get("trainers") or cluster.get("trainers") or 1)


def _median(values: Any) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return statistics.median(known) if known else None


def _seconds(milliseconds: Any) -> float | None:
    median = _median(milliseconds)
    return None if median is None else median / 1000


def _sigma(folder: Path) -> float | None:
    rows = read_jsonl(folder / "samples.jsonl")
    tokens = [row.get("tokens") for row in rows]
    logs = [math.log(each) for each in tokens if isinstance(each, int) and each > 0]
    return statistics.pstdev(logs) if len(logs) >= MIN_SAMPLES else None
