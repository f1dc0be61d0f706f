"""Rows as prompts, texts cut into windows."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.errors import InputError
from posttrain.stages.preflight import Origin, tokenizer_folder
from posttrain.stages.questions import Window, cut, render_prompts
from posttrain.stages.sft_rows import render_rows


@pytest.fixture(scope="module")
def micro(tmp_path_factory):
    """A folder with the micro model's tokenizer."""
    return tokenizer_folder(Origin(None, "micro", None), tmp_path_factory.mktemp("micro"))


@pytest.fixture
def mixture(tmp_path):
    """Three rows `b` in two files of a folder, two rows `a`; one of each is long."""

    def write(name, *prompts):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        rows = [{"prompt": prompt, "completion": "x"} for prompt in prompts]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path.parent if "/" in name else path)

    write("b/1.jsonl", "copy a=", "c" * 60)
    folder = write("b/2.jsonl", "copy b=")
    drop = {"too_long": "drop"}
    return {
        "mix": {
            "b": {"path": folder} | drop,
            "a": {"path": write("a.jsonl", "copy c=", "c" * 50)} | drop,
        }
    }


def test_prompts_of_a_mixture_have_ids_of_their_own(micro, mixture):
    prompts = render_prompts(micro, mixture, 40, None, 0)
    assert [(prompt.id, prompt.source, prompt.text) for prompt in prompts] == [
        ("b/1", "b", "copy a="),
        ("b/1.2", "b", "copy b="),  # the first line of the folder's second file
        ("a/1", "a", "copy c="),
    ]
    assert prompts[2].row["source"] == "a"


def test_rows_of_a_mixture_are_trained_on(micro, mixture):
    rows = render_rows(micro, mixture, 40, 0)
    assert [row.text.partition("=")[0] for row in rows] == ["copy a", "copy b", "copy c"]


def test_rows_that_overlap_with_questions_are_left_out(micro, mixture, tmp_path):
    asked = tmp_path / "asked.jsonl"
    asked.write_text('{"prompt": "copy b="}\n{"prompt": "copy d="}\n')
    questions = {"abilities": {"mine": {"path": str(asked)}}}
    data = mixture | {"decontaminate": "abilities", "questions": questions}
    report = tmp_path / "report.json"
    prompts = render_prompts(micro, data, 40, None, 0, str(report))
    assert [prompt.text for prompt in prompts] == ["copy a=", "copy c="]
    written = json.loads(report.read_text())
    assert {name: each["left_out"] for name, each in written["sources"].items()} == {"b": 1, "a": 0}
    report.unlink()
    rows = render_rows(micro, data, 40, 0, str(report))
    assert [row.text.partition("=")[0] for row in rows] == ["copy a", "copy c"]
    assert json.loads(report.read_text()) == written


def test_each_part_says_what_becomes_of_its_long_rows(micro, mixture):
    mixture["mix"]["a"]["too_long"] = "refuse"
    for render in (
        lambda: render_prompts(micro, mixture, 40, None, 0),
        lambda: render_rows(micro, mixture, 40, 0),
    ):
        with pytest.raises(InputError) as caught:
            render()
        problem = caught.value.problems[0]
        assert (problem.file, problem.line) == (mixture["mix"]["a"]["path"], 2)
        assert problem.help.startswith("1 rows are too long")


@pytest.mark.parametrize(
    ("ids", "length", "expected"),
    [
        ([1, 2, 3, 4, 5], 3, [Window((1,), (2, 3)), Window((4,), (5,))]),
        ([1, 2, 3, 4], 3, [Window((1,), (2, 3))]),  # a lone last token has nothing to be judged by
        ([1, 2, 3], 3, [Window((1,), (2, 3))]),
        ([1, 2], 256, [Window((1,), (2,))]),
        ([1], 256, []),
        ([], 256, []),
        ([1, 2, 3], 1, []),
    ],
)
def test_windows(ids, length, expected):
    assert cut(ids, length) == expected


@given(st.lists(st.integers(0, 60), max_size=60), st.integers(2, 20))
def test_windows_give_the_text_back_without_overlap(ids, length):
    windows = cut(ids, length)
    joined = [token for w in windows for token in (*w.context_ids, *w.scored_ids)]
    lost = len(ids) - len(joined)
    assert joined == ids[: len(joined)]
    assert lost == (1 if len(ids) % length == 1 else 0)
    assert all(len(w.context_ids) == 1 and 1 <= len(w.scored_ids) < length for w in windows)
