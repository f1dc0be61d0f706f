"""GSM8K's own rows, as a pretrained model's tokenizer and the plain template make them."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

import pytest

from posttrain.config.data import DataSpec
from posttrain.model.chat import end_of_turn_ids, render, render_prompt
from posttrain.model.load import load_tokenizer
from posttrain.prompts.sources import read_source

MODEL = Path(os.environ.get("POSTTRAIN_MODELS", "../shared/models")) / "stories260K"
ROWS = Path(os.environ.get("POSTTRAIN_DATA", "../shared/data")) / "gsm8k" / "train.jsonl.gz"
START, END, NEWLINE, NUMBER_SIGN = 1, 2, 13, 38  # <s>, </s>, <0x0A>, <0x23>
CONTEXT = 512


@pytest.fixture(scope="module")
def tokenizer():
    if not MODEL.is_dir():
        pytest.skip("no stories260K model here: set POSTTRAIN_MODELS")
    return load_tokenizer(MODEL)


@pytest.fixture(scope="module")
def rows():
    """The first 500 rows, read and renamed as a stage's data section does it."""
    if not ROWS.is_file():
        pytest.skip("no gsm8k/train.jsonl.gz here: set POSTTRAIN_DATA")
    columns = {"prompt": "question", "completion": "answer"}
    spec = DataSpec.model_validate({"path": str(ROWS), "columns": columns})
    source = read_source(spec, seed=0, needs=("prompt", "completion"))
    return [row for _, row in islice(source, 500)]


def test_the_answer_follows_the_prompt_that_will_be_asked(tokenizer, rows):
    assert end_of_turn_ids(tokenizer, "plain") == (END,)
    for row in rows:
        asked = render_prompt(row, tokenizer, "plain").token_ids
        rendered = render(row, tokenizer, "plain")
        ids = rendered.token_ids
        assert ids[: len(asked)] == asked
        assert (ids[0], ids.count(START)) == (START, 1)
        assert (ids[-1], ids.count(END)) == (END, 1)
        assert rendered.trained_mask == (0,) * len(asked) + (1,) * (len(ids) - len(asked))
        text = tokenizer.decode(ids, skip_special_tokens=True)
        assert text == row["prompt"] + row["completion"]


def test_characters_outside_the_vocabulary_become_bytes(tokenizer, rows):
    ids = render(rows[0], tokenizer, "plain").token_ids
    assert rows[0]["completion"].endswith("in April and May.\n#### 72")
    # … "May" "." newline, four number signs, "▁" "7" "2" </s>
    pieces = tokenizer.convert_ids_to_tokens(list(ids[-9:]))
    assert pieces == ["<0x0A>", *["<0x23>"] * 4, "▁", "7", "2", "</s>"]
    assert (ids[-9], ids[-8]) == (NEWLINE, NUMBER_SIGN)


def test_how_many_rows_fit_the_context(tokenizer, rows):
    lengths = [len(render(row, tokenizer, "plain").token_ids) for row in rows]
    assert sum(length <= CONTEXT for length in lengths) == 430
