"""GSM8K's own splits: what the training rows share with the test questions."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from posttrain.config.data import DataSpec
from posttrain.config.suites import Suite
from posttrain.config.tasks import resolved
from posttrain.prompts.decontamination import TrainingRows

FOLDER = Path(os.environ.get("POSTTRAIN_DATA", "../shared/data")) / "gsm8k"
COLUMNS = {"prompt": "question", "completion": "answer"}


@pytest.fixture(scope="module")
def suite():
    if not (FOLDER / "train.jsonl.gz").is_file():
        pytest.skip("no gsm8k here: set POSTTRAIN_DATA")
    data = {"path": str(FOLDER / "test.jsonl.gz"), "columns": {"prompt": "question"}}
    return Suite.model_validate(
        {"gain": ["gsm8k"], "tasks": {"gsm8k": {"data": data, "reward": "gsm8k"}}}
    )


def read(file, suite):
    data = DataSpec(path=str(file), columns=COLUMNS, decontaminate="abilities")
    rows = TrainingRows(resolved(data, {"abilities": suite}), seed=0, needs=("prompt",))
    return list(rows), rows.report


def test_training_rows_that_nearly_are_test_questions(suite):
    kept, report = read(FOLDER / "train.jsonl.gz", suite)
    assert (report["rows"], report["left_out"], len(kept)) == (7473, 3, 7470)
    found = next(iter(report["sources"].values()))["tasks"]["gsm8k"]
    assert [
        (each["share"], each["prompt"][:28], each["question"][:28]) for each in found["examples"]
    ] == [
        (0.625, "Bella bought stamps at the p", "Max bought stamps at the pos"),  # the same story
        (0.76, "A train travels 270 miles in", "A plane travels 1200 miles i"),
        (0.76, "A train travels 360 miles in", "A plane travels 1200 miles i"),
    ]


def test_planted_test_questions_are_all_found(suite, tmp_path):
    with gzip.open(FOLDER / "train.jsonl.gz", "rt") as train:
        rows = [json.loads(line) for line in train][:1000]
    with gzip.open(FOLDER / "test.jsonl.gz", "rt") as test:
        planted = [json.loads(line) for line in test][::10]
    for number, row in enumerate(planted):
        question = f"Solve this: {row['question'].upper()} Think step by step."
        rows.insert(number * 7, {"question": question, "answer": row["answer"], "planted": True})
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    kept, report = read(file, suite)
    assert not any("planted" in each.row for each in kept)
    assert report["left_out"] == len(planted) + 1  # and one of the three rows above
    assert len(kept) == 999
