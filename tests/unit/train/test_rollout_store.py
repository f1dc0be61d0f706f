"""Trained rollouts as parquet rows."""

from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from posttrain.train.rollout_store import RolloutStore, rows, write_rollouts


def test_a_row_says_everything_of_its_answer(hand_made_batch):
    assert rows(hand_made_batch)[0] == {
        "step": 3,
        "draw": 4,
        "sample": 0,
        "greedy": False,
        "source": "rows",
        "prompt_id": "rows/4",
        "prompt": "question 4",
        "completion": "answer 0",
        "score": 1.0,
        "passed": True,
        "parts": '{"format": 1.0}',
        "reason": "",
        "tokens": 3,
        "cut": False,
        "version_from": 2,
        "version_to": 3,
        "age": 1,  # version 3 is trained; its oldest token is of version 2
        "prompt_ids": [1, 4],
        "token_ids": [5, 6, 2],
        "logprobs": pytest.approx([-0.5, -0.6, -0.2]),
        "versions": [2, 2, 3],
    }


def test_the_first_rows_only(hand_made_batch):
    assert rows(hand_made_batch, 2) == rows(hand_made_batch)[:2]


def test_rows_stand_in_the_order_of_draws_and_samples(hand_made_batch):
    found = [(row["draw"], row["sample"], row["tokens"]) for row in rows(hand_made_batch)]
    assert found == [
        (4, 0, 3), (4, 1, 3), (4, 2, 1),
        (5, 0, 0), (5, 1, 0), (5, 2, 4),
        (6, 0, 1), (6, 1, 2), (6, 2, 2),
    ]  # fmt: skip
    assert [row["cut"] for row in rows(hand_made_batch)].count(True) == 2
    assert [row["age"] for row in rows(hand_made_batch)] == [1, 1, 0, 2, 2, 2, 0, 0, 0]


def test_an_empty_answer_is_as_old_as_its_group(hand_made_batch):
    empty = rows(hand_made_batch)[3]
    assert (empty["tokens"], empty["token_ids"], empty["versions"]) == (0, [], [])
    assert (empty["version_from"], empty["version_to"], empty["age"]) == (1, 1, 2)


def test_scores_and_answers_must_match(hand_made_batch):
    first = hand_made_batch.groups[0]
    uneven = replace(hand_made_batch, groups=(replace(first, scores=first.scores[:2]),))
    with pytest.raises(ValueError):
        rows(uneven)


def test_the_file_reads_back_as_it_was(hand_made_batch, tmp_path):
    path = write_rollouts(tmp_path / "rollouts", hand_made_batch)
    assert path == tmp_path / "rollouts" / "step-000003.parquet"
    assert pq.read_table(path).to_pylist() == rows(hand_made_batch)
    assert [row["passed"] for row in rows(hand_made_batch)][-1] is None


def test_a_repeated_step_replaces_its_file(hand_made_batch, tmp_path):
    write_rollouts(tmp_path, hand_made_batch)
    write_rollouts(tmp_path, replace(hand_made_batch, groups=hand_made_batch.groups[:1]))
    assert [path.name for path in tmp_path.iterdir()] == ["step-000003.parquet"]
    assert pq.read_table(tmp_path / "step-000003.parquet").num_rows == 3


def test_a_write_that_fails_leaves_the_file_of_before(hand_made_batch, tmp_path, monkeypatch):
    path = write_rollouts(tmp_path, hand_made_batch)

    def full(table, where, **_):
        where.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError):
        write_rollouts(tmp_path, hand_made_batch)
    monkeypatch.undo()
    assert pq.read_table(path).num_rows == 9


def test_a_group_that_is_trained_in_two_steps_is_counted(hand_made_batch, tmp_path):
    """A step that is done again replaces its file and counts nothing, after a restart too."""
    store = RolloutStore(tmp_path)
    first, second, third = hand_made_batch.groups
    assert store.write(replace(hand_made_batch, step=0, groups=(first,))) == 0
    assert store.write(replace(hand_made_batch, step=1, groups=(second, third))) == 0
    assert store.write(replace(hand_made_batch, step=1, groups=(second, third))) == 0
    again = RolloutStore(tmp_path)
    assert again.write(replace(hand_made_batch, step=1, groups=(second, third))) == 0
    assert again.write(replace(hand_made_batch, step=2, groups=(first, third))) == 2
    assert RolloutStore(tmp_path).write(replace(hand_made_batch, step=0, groups=(third,))) == 0
