"""Every trained rollout as a row of a parquet file: one file per step, readable with any tool."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from posttrain.types import Rollout, Score, ScoredGroup, TrainBatch


def rows(batch: TrainBatch) -> list[dict[str, Any]]:
    """One row per rollout; `age` is the trainer's version minus that of the oldest token."""
    return [
        _row(batch.step, scored, rollout, score)
        for scored in batch.groups
        for rollout, score in zip(scored.group.rollouts, scored.scores, strict=True)
    ]


def _row(step: int, scored: ScoredGroup, rollout: Rollout, score: Score) -> dict[str, Any]:
    versions = rollout.versions or (scored.group.start_version,)
    return {
        "step": step,
        "draw": scored.group.draw,
        "sample": rollout.sample,
        "source": scored.group.prompt.source,
        "prompt_id": scored.group.prompt.id,
        "prompt": scored.group.prompt.text,
        "completion": rollout.text,
        "score": score.value,
        "passed": score.passed,
        "parts": json.dumps(dict(score.parts)),
        "tokens": len(rollout.token_ids),
        "cut": rollout.finish == "length",
        "version_from": versions[0],
        "version_to": versions[-1],
        "age": step - min(versions),
        "prompt_ids": list(rollout.prompt_ids),
        "token_ids": list(rollout.token_ids),
        "logprobs": list(rollout.logprobs),
        "versions": list(rollout.versions),
    }


def write_rollouts(directory: Path, batch: TrainBatch) -> Path:
    """Write `step-000012.parquet`, whole or not at all; a repeated step replaces its file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"step-{batch.step:06d}.parquet"
    temporary = path.with_suffix(".tmp")
    pq.write_table(pa.Table.from_pylist(rows(batch)), temporary)
    temporary.replace(path)
    return path
