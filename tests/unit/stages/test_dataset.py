"""The folder of a `generate` stage: what is written is read again, part by part."""

import json

import pytest

from posttrain.errors import InputError
from posttrain.stages.dataset import OWN_SAMPLE, Answers, DatasetFolder
from posttrain.types import Prompt, Rollout, Score


def prompt(number: int) -> Prompt:
    row = {"prompt": f"{number}+1=", "answer": str(number + 1)}
    return Prompt(f"rows/{number}", "rows", (1, 2, number), row["prompt"], row)


def rollout(number: int, sample: int, text: str = "7", finish: str = "stop") -> Rollout:
    return Rollout(
        f"rows/{number}",
        sample,
        (1, 2, number),
        (9, 1),
        (1, 1),
        (-0.5, -0.25),
        (0, 0),
        text,
        finish,
    )


def answers(number: int, samples: int = 2) -> Answers:
    rollouts = tuple(rollout(number, sample) for sample in range(samples))
    scores = (Score(0.5, passed=True, parts={"members_std": 0.1}), *[None] * (samples - 1))
    return Answers(prompt(number), rollouts, scores)


def test_answers_come_back_as_they_were(tmp_path):
    folder = DatasetFolder(tmp_path)
    folder.begin([prompt(0), prompt(1), prompt(2)])
    folder.write_part(2, [answers(2)])
    folder.write_part(0, [answers(0), answers(1)])
    assert list(folder.answers()) == [answers(0), answers(1), answers(2)]


def test_the_order_is_that_of_the_prompts_in_any_number_of_digits(tmp_path):
    folder = DatasetFolder(tmp_path)
    folder.begin([prompt(0), prompt(1), prompt(2)])
    folder.write_part(0, [answers(0), answers(1)])
    first, last = (tmp_path / "samples" / f"{name}.parquet" for name in ("000000", "1000000"))
    folder.write_part(2, [answers(2)])
    first.rename(tmp_path / "samples" / "999999.parquet")
    (tmp_path / "samples" / "000002.parquet").rename(last)
    assert list(folder.answers()) == [answers(0), answers(1), answers(2)]


def test_a_part_that_was_never_finished_is_none(tmp_path):
    folder = DatasetFolder(tmp_path)
    folder.begin([prompt(0)])
    (tmp_path / "samples" / ".000000.parquet.partial-7").write_bytes(b"half of it")
    assert not folder.has_part(0)
    assert list(folder.answers()) == []


def test_parts_stay_when_a_stage_begins_again(tmp_path):
    folder = DatasetFolder(tmp_path)
    folder.begin([prompt(0)])
    folder.write_part(0, [answers(0)])
    DatasetFolder(tmp_path).begin([prompt(0)])
    assert folder.has_part(0)


def test_a_damaged_part_is_named(tmp_path):
    folder = DatasetFolder(tmp_path)
    folder.begin([prompt(0)])
    (tmp_path / "samples" / "000000.parquet").write_bytes(b"PAR1 no such thing")
    with pytest.raises(InputError) as error:
        list(folder.answers())
    problem = error.value.problems[0]
    assert problem.code == "unreadable-file"
    assert problem.path.endswith("samples/000000.parquet")


def test_the_answer_of_the_data_is_told_apart(tmp_path):
    folder = DatasetFolder(tmp_path)
    folder.begin([prompt(0)])
    both = Answers(prompt(0), (rollout(0, 0), rollout(0, OWN_SAMPLE)), (Score(1.0), Score(0.0)))
    folder.write_part(0, [both])
    (found,) = folder.answers()
    assert [found.of_policy(number) for number in (0, 1)] == [True, False]


def test_rows_and_summary(tmp_path):
    folder = DatasetFolder(tmp_path)
    folder.begin([prompt(0)])
    assert folder.finish(iter([{"prompt": "é", "completion": "x"}]), {"schema": 1}) == 1
    assert json.loads((tmp_path / "rows.jsonl").read_text()) == {"prompt": "é", "completion": "x"}
    assert folder.summary == {"schema": 1, "rows": 1}
    assert list(tmp_path.glob(".*")) == []
