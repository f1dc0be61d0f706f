"""Every trained rollout as a row of a parquet file: one file per step, readable with any tool."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.files import whole_file
from posttrain.types import Rollout, Score, ScoredGroup, TrainBatch

if TYPE_CHECKING:
    import pyarrow as pa

LIST_COLUMNS = {
    "prompt_ids": "int64",
    "token_ids": "int64",
    "logprobs": "float64",
    "versions": "int64",
}
"""Columns with an entry per token: attributes of a Rollout, and the type of their entries."""


def rows(batch: TrainBatch, most: int | None = None) -> list[dict[str, Any]]:
    """One row per rollout; `age` is the trainer's version minus that of the oldest token.

    The first `most` rows, where it is given.
    """
    return [
        _row(batch.step, scored, rollout, score)
        | {name: list(getattr(rollout, name)) for name in LIST_COLUMNS}
        for scored, rollout, score in itertools.islice(_rollouts(batch), most)
    ]


def _rollouts(batch: TrainBatch) -> Iterator[tuple[ScoredGroup, Rollout, Score]]:
    for scored in batch.groups:
        for rollout, score in zip(scored.group.rollouts, scored.scores, strict=True):
            yield scored, rollout, score
        if scored.group.greedy is not None and scored.greedy_score is not None:
            yield scored, scored.group.greedy, scored.greedy_score


def _row(step: int, scored: ScoredGroup, rollout: Rollout, score: Score) -> dict[str, Any]:
    versions = rollout.versions or (scored.group.start_version,)
    return {
        "step": step,
        "draw": scored.group.draw,
        "sample": rollout.sample,
        "greedy": rollout is scored.group.greedy,
        "source": scored.group.prompt.source,
        "prompt_id": scored.group.prompt.id,
        "prompt": scored.group.prompt.text,
        "completion": rollout.text,
        "score": score.value,
        "passed": score.passed,
        "parts": json.dumps(dict(score.parts)),
        "reason": score.reason,
        "tokens": len(rollout.token_ids),
        "cut": rollout.finish == "length",
        "version_from": versions[0],
        "version_to": versions[-1],
        "age": step - min(versions),
    }


class RolloutStore:
    """What a stage was trained on, in a folder of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._trained: dict[int, int] | None = None  # draw -> step; read when it is first asked for

    def write(self, batch: TrainBatch) -> int:
        """Write a batch; the number of its groups that an earlier step was trained on as well."""
        if self._trained is None:
            self._trained = _draws_before(self._directory, batch.step)
        write_rollouts(self._directory, batch)
        steps = [self._trained.setdefault(scored.group.draw, batch.step) for scored in batch.groups]
        return sum(step != batch.step for step in steps)


def _draws_before(directory: Path, step: int) -> dict[int, int]:
    """Files of later steps are of work that a restart does again."""
    import pyarrow.parquet as pq

    return {
        draw: earlier
        for earlier in range(step)
        if (path := _file(directory, earlier)).exists()
        for draw in pq.read_table(path, columns=["draw"])["draw"].to_pylist()
    }


def _file(directory: Path, step: int) -> Path:
    return directory / f"step-{step:06d}.parquet"


def write_rollouts(directory: Path, batch: TrainBatch) -> Path:
    """Write `step-000012.parquet`, whole or not at all; a repeated step replaces its file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    directory.mkdir(parents=True, exist_ok=True)
    path = _file(directory, batch.step)
    table = pa.Table.from_pylist([_row(batch.step, *each) for each in _rollouts(batch)])
    rollouts = [rollout for _, rollout, _ in _rollouts(batch)]
    for name, kind in LIST_COLUMNS.items():
        table = table.append_column(name, _lists([getattr(r, name) for r in rollouts], kind))
    # A dictionary of log-probs would hold nearly all of them, and take three times as long.
    leaves = [
        f"{name}.list.element" if name in LIST_COLUMNS else name for name in table.schema.names
    ]
    encoded = [leaf for leaf in leaves if not leaf.startswith("logprobs")]
    with whole_file(path) as partial:
        pq.write_table(table, partial, use_dictionary=encoded)
    return path


def _lists(parts: Sequence[Sequence[float]], kind: str) -> pa.ListArray:
    """A list column without a Python object per entry: four times as fast."""
    import numpy as np
    import pyarrow as pa

    ends = np.cumsum([0, *(len(part) for part in parts)])
    values = np.fromiter(itertools.chain.from_iterable(parts), np.dtype(kind), int(ends[-1]))
    return pa.ListArray.from_arrays(ends.astype(np.int32), pa.array(values))
