"""Our columns are theirs under another name, or texts that hold several of them."""

import json

import pytest

from posttrain.config.data import DataSpec
from posttrain.errors import InputError
from posttrain.prompts.columns import theirs, value_of
from posttrain.prompts.rows import read_rows

ROW = {"text": "Add two.", "test_list": ["assert add(1, 2) == 3", "assert add(0, 0) == 0"], "n": 3}


def test_a_name_is_its_column_and_a_text_holds_several():
    assert list(theirs("text")) == ["text"]
    assert list(theirs("{text}\n{test_list}")) == ["text", "test_list"]
    assert value_of("test_list", ROW) == ROW["test_list"]
    assert value_of("{text} ({n})\n{test_list}", ROW) == (
        "Add two. (3)\nassert add(1, 2) == 3\nassert add(0, 0) == 0"
    )
    assert value_of("{text} {} {not this}", ROW) == "Add two. {} {not this}"


def test_rows_are_read_with_it_and_a_missing_column_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROW) + "\n")
    spec = DataSpec(path=str(path), columns={"prompt": "{text} Pass:\n{test_list}"})
    ((_, row),) = read_rows(spec, needs=("prompt",))
    assert row["prompt"].startswith("Add two. Pass:\nassert add(1, 2)")
    wrong = DataSpec(path=str(path), columns={"prompt": "{txt} Pass:\n{test_list}"})
    with pytest.raises(InputError, match=r"no column `txt` \(data.columns.prompt\)"):
        list(read_rows(wrong, needs=("prompt",)))
