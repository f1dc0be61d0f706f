"""Which answers coefficients are found on: the newest, and of these the best."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from posttrain.errors import StageFailed
from posttrain.stages.average_answers import ROLLOUTS, AnswerSource
from posttrain.stages.dataset import OWN_SAMPLE, Answers, DatasetFolder
from posttrain.types import Prompt, Rollout, Score


@pytest.fixture
def steps(tmp_path):
    """Two steps of three answers each; the score of answer n is n tenths."""
    folder = tmp_path / ROLLOUTS
    folder.mkdir()
    for step in (0, 1):
        rows = [
            {"score": n / 10, "prompt_ids": [1, 2], "token_ids": [n, 9], "text": "not read"}
            for n in range(3 * step, 3 * step + 3)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"step-{step:06d}.parquet")
    return str(folder)


def firsts(answers):
    return [ids[0] for _, ids in answers]


def test_the_best_of_all(steps):
    assert firsts(AnswerSource(steps, 100, 2).read()) == [5, 4]


def test_only_the_newest_are_looked_at(steps):
    # The newest step has 3, 4, 5; the fourth answer looked at is the first of the step before.
    assert firsts(AnswerSource(steps, 4, 10).read()) == [5, 4, 3, 0]


def test_an_answer_without_tokens_teaches_nothing(tmp_path):
    folder = tmp_path / ROLLOUTS
    folder.mkdir()
    table = pa.table(
        {
            "score": [1.0],
            "prompt_ids": pa.array([[1]], pa.list_(pa.int64())),
            "token_ids": pa.array([[]], pa.list_(pa.int64())),
        }
    )
    pq.write_table(table, folder / "step-000000.parquet")
    with pytest.raises(StageFailed, match="there are no answers"):
        AnswerSource(str(folder), 10, 10).read()


def test_of_a_data_set_the_answers_of_the_policy(tmp_path):
    def rollout(sample, first):
        return Rollout("r", sample, (1,), (first, 9), (1, 1), (-1.0, -1.0), (0, 0), "x", "stop")

    prompt = Prompt("rows/0", "rows", (1,), "x", {})
    folder = DatasetFolder(tmp_path / "dataset")
    folder.begin([prompt])
    rollouts = (rollout(0, 4), rollout(1, 5), rollout(OWN_SAMPLE, 6))
    folder.write_part(0, [Answers(prompt, rollouts, (Score(0.1), Score(0.7), Score(1.0)))])
    assert firsts(AnswerSource(str(folder.path), 10, 10).read()) == [5, 4]
