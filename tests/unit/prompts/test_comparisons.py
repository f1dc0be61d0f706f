"""Rows that compare two answers, in every form, and what makes a row no comparison."""

import gzip
import json
import os
from collections import Counter
from pathlib import Path

import pytest

from posttrain.config.data import DataSpec
from posttrain.errors import InputError
from posttrain.prompts import comparisons
from posttrain.prompts.comparisons import Comparison, comparison_of, prompt_texts
from posttrain.prompts.rows import read_rows

DATA = Path(os.environ.get("POSTTRAIN_DATA", "../shared/data"))
USER = {"role": "user", "content": "2+2?"}


def said(text):
    return {"role": "assistant", "content": text}


def test_texts_beside_a_prompt():
    row = {"prompt": "2+2?", "chosen": "4", "rejected": "5", "id": 7}
    assert comparison_of(row) == Comparison("2+2?", "4", "5")


def test_conversations_that_differ_in_their_last_message():
    row = {"chosen": [USER, said("4")], "rejected": [USER, said("5")]}
    assert comparison_of(row) == Comparison([USER], "4", "5")
    assert prompt_texts(row) == ["2+2?"]


def test_answers_as_messages_beside_a_prompt():
    row = {"prompt": "2+2?", "chosen": [said("4")], "rejected": [said("5")]}
    assert comparison_of(row) == Comparison([USER], "4", "5")


def test_transcripts():
    start = "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: 2+2?\n\nAssistant:"
    found = comparison_of({"chosen": f"{start} 4", "rejected": f"{start} 5"})
    asked = [{"role": "user", "content": "Hi"}, said("Hello!"), USER]
    assert found == Comparison(asked, "4", "5")


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, comparisons.SAME),
        ({"prompt": "q", "chosen": "a", "rejected": "  "}, comparisons.EMPTY),
        ({"prompt": " ", "chosen": "a", "rejected": "b"}, comparisons.NO_PROMPT),
        ({"chosen": "a", "rejected": "b"}, comparisons.NO_PROMPT),
        ({"chosen": [said("a")], "rejected": [said("b")]}, comparisons.NO_PROMPT),
        ({"chosen": [USER, said("a")], "rejected": [USER]}, comparisons.NO_ANSWER),
        (
            {"chosen": [USER, said("a")], "rejected": [{**USER, "content": "3+3?"}, said("b")]},
            comparisons.OTHER_PROMPTS,
        ),
        (
            {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: r\n\nAssistant: b"},
            comparisons.OTHER_PROMPTS,
        ),
        ({"chosen": "\n\nHuman: q", "rejected": "\n\nHuman: q"}, comparisons.NO_ANSWER),
        ({"prompt": 5, "chosen": "a", "rejected": "b"}, comparisons.NEITHER),
        ({"chosen": ["a"], "rejected": ["b"]}, comparisons.NEITHER),
        ({"chosen": "Hi\n\nHuman: q\n\nAssistant: a", "rejected": "b"}, comparisons.NO_PROMPT),
    ],
)
def test_what_is_no_comparison(row, fault):
    assert comparison_of(row) == fault
    assert prompt_texts(row) == []


def test_nearly_every_row_of_hh_rlhf_is_a_comparison():
    """As the data's own notes say: some 32 ties, a few empty answers, some 17 other prompts."""
    files = sorted((DATA / "hh_rlhf").glob("*.jsonl.gz"))
    if not files:
        pytest.skip("no hh_rlhf here: set POSTTRAIN_DATA")
    found = Counter()
    for file in files:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for line in lines:
                comparison = comparison_of(json.loads(line))
                found[comparison if isinstance(comparison, str) else "good"] += 1
    assert found["good"] > 0.99 * found.total()
    assert found[comparisons.SAME] >= 20
    assert found[comparisons.NO_PROMPT] == 0


def test_a_comparison_gives_prompts_to_ask_and_answers_to_learn(tmp_path):
    start = "\n\nHuman: 2+2?\n\nAssistant:"
    texts = {"prompt": "2+2?", "chosen": "4", "rejected": "5"}
    rows = [{"chosen": f"{start} 4", "rejected": f"{start} 5"}, texts]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    spec = DataSpec(path=str(tmp_path / "pairs.jsonl"))
    one, two = (row for _, row in read_rows(spec, needs=("prompt", "completion")))
    assert one["messages"] == [USER, said("4")]
    assert (two["prompt"], two["completion"]) == ("2+2?", "4")
    asked = [row for _, row in read_rows(spec, needs=("prompt",))]
    assert asked[0]["messages"] == [USER, said("4")]  # asked is what stands before the answer
    assert asked[1] == texts


def test_a_tie_still_has_a_prompt_to_ask_and_an_answer_to_learn(tmp_path):
    row = {"chosen": [USER, said("4")], "rejected": [USER, said("4")]}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row))
    spec = DataSpec(path=str(tmp_path / "pairs.jsonl"))
    for needs in (("prompt",), ("prompt", "completion")):
        assert [found["messages"] for _, found in read_rows(spec, needs=needs)] == [row["chosen"]]


def test_what_a_data_set_notes_beside_messages_does_not_make_prompts_differ():
    noted = [{**USER, "id": 1}, said("4")], [{**USER, "id": 2}, said("5")]
    assert comparison_of(dict(zip(("chosen", "rejected"), noted, strict=True))) == Comparison(
        noted[0][:1], "4", "5"
    )


def test_a_row_that_compares_nothing_gives_none(tmp_path):
    row = {"chosen": "\n\nHuman: q", "rejected": "\n\nHuman: q"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row))
    with pytest.raises(InputError, match="the last message is not the assistant's"):
        list(read_rows(DataSpec(path=str(tmp_path / "pairs.jsonl")), needs=("prompt",)))
