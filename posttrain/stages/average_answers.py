"""Answers of a trained policy, for averaging methods that find their coefficients on some."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from posttrain.errors import StageFailed
from posttrain.ports import Answered
from posttrain.stages.dataset import DatasetFolder

ROLLOUTS = "rollouts"  # of an online_rl stage: a file for each step


@dataclass(frozen=True, slots=True)
class AnswerSource:
    """Where answers lie: the folder of a data set, or one with the rollouts of steps."""

    folder: str
    take: int
    keep_best: int

    def read(self) -> list[Answered]:
        """(prompt ids, answer ids) of the `keep_best` best of the first `take`, best first; without
        scores the first. Raises StageFailed where there are none.
        """
        folder = Path(self.folder)
        found = _of_steps(folder) if folder.name == ROLLOUTS else _of_data_set(folder)
        scored = list(islice(found, self.take))
        if not scored:
            raise StageFailed(
                f"there are no answers in {folder}",
                help="samples: a generate stage that asks the model of `post`",
            )
        best = sorted(scored, key=lambda each: -each[0])[: self.keep_best]
        return [answered for _, answered in best]


def _of_steps(folder: Path) -> Iterator[tuple[float, Answered]]:
    """(score, answer), the newest step first."""
    import pyarrow.parquet as pq

    columns = ["score", "prompt_ids", "token_ids"]
    for path in sorted(folder.glob("step-*.parquet"), reverse=True):
        for row in pq.read_table(path, columns=columns).to_pylist():
            if row["token_ids"]:
                yield row["score"], (row["prompt_ids"], row["token_ids"])


def _of_data_set(folder: Path) -> Iterator[tuple[float, Answered]]:
    for answers in DatasetFolder(folder).answers():
        for number, rollout in enumerate(answers.rollouts):
            score = answers.scores[number]
            if rollout.token_ids and answers.of_policy(number):
                value = score.value if score is not None else 0.0
                yield value, (rollout.prompt_ids, rollout.token_ids)
