"""Rows of every format, columns by our names, and bad rows by file and line."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from posttrain.config.data import DataSpec
from posttrain.errors import InputError
from posttrain.prompts.faults import guess_columns
from posttrain.prompts.rows import data_files, data_fingerprint, is_hub_name, read_rows

PAIR = ("prompt", "completion")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(path: str, needs: tuple[str, ...] = PAIR, **options: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        list(read_rows(DataSpec(path=path, **options), needs=needs, where="(stage sft)"))
    return [problem.render().splitlines()[0] for problem in caught.value.problems]


def test_lines_are_counted_and_blank_ones_skipped() -> None:
    Path("a.jsonl").write_text(
        '{"prompt": "a", "completion": "b"}\n\n  \n{"prompt": "c", "completion": "d"}'
    )
    assert list(read_rows(DataSpec(path="a.jsonl"), needs=PAIR)) == [
        (1, {"prompt": "a", "completion": "b"}),
        (4, {"prompt": "c", "completion": "d"}),
    ]  # fmt: skip


def test_columns_get_our_names_and_the_others_stay() -> None:
    Path("a.jsonl").write_text('{"question": "a", "answer": "b", "id": 7}\n')
    spec = DataSpec(path="a.jsonl", columns={"prompt": "question", "completion": "answer"})
    assert list(read_rows(spec, needs=PAIR)) == [
        (1, {"question": "a", "answer": "b", "id": 7, "prompt": "a", "completion": "b"})
    ]


def test_every_format_gives_the_same_rows() -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [{"prompt": "a", "completion": "1, 2"}, {"prompt": "ü\n", "completion": ""}]
    Path("a.jsonl").write_text(
        '{"prompt": "a", "completion": "1, 2"}\n{"prompt": "ü\\n", "completion": ""}\n'
    )
    Path("a.jsonl.gz").write_bytes(gzip.compress(Path("a.jsonl").read_bytes()))
    Path("a.csv").write_text('prompt,completion\na,"1, 2"\n"ü\n",\n')
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), "a.parquet")
    for name in ("a.jsonl", "a.jsonl.gz", "a.csv", "a.parquet"):
        found = [row for _, row in read_rows(DataSpec(path=name), needs=PAIR)]
        assert found == rows, name


def test_a_folder_is_its_files_or_those_of_the_split() -> None:
    Path("d").mkdir()
    for name in ("train.jsonl", "test.jsonl", "test_extra.jsonl", "README.md"):
        Path("d", name).write_text('{"prompt": "x", "completion": "y"}\n')
    assert [f.name for f in data_files(DataSpec(path="d"))] == ["train.jsonl"]
    assert [f.name for f in data_files(DataSpec(path="d", split="test"))] == ["test.jsonl"]
    assert len(data_files(DataSpec(path="d", split="all"))) == 3
    assert len(list(read_rows(DataSpec(path="d", split="all"), needs=PAIR))) == 3


def test_bad_rows_are_skipped_and_counted() -> None:
    Path("a.jsonl").write_text(
        '{"prompt": "a", "completion": "b"}\nnonsense\n{"prompt": "a"}\n'
        '{"prompt": "c", "completion": "d"}\n'
    )
    reader = read_rows(DataSpec(path="a.jsonl", bad_rows="skip"), needs=PAIR)
    assert [line for line, _ in reader] == [1, 4]
    assert (reader.rows, reader.skipped) == (2, 2)


def test_the_first_bad_row_is_named_and_the_others_counted() -> None:
    good = '{"prompt": "a", "completion": "b"}\n'
    Path("a.jsonl").write_text(good + "{\n" + good + "[1]\n3\n" + '{"prompt": 1}\n' + '"x"\n')
    assert refused("a.jsonl") == [
        "error[bad-row] a.jsonl:2 (stage sft): not JSON, a key in double quotes is missing at "
        "column 2; 4 more: 4, 5, 6, ..."
    ]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"prompt": "a", "completion": "b}', "not JSON, string not closed at column 31"),
        ('{"prompt": "a" "completion": "b"}', "not JSON, a `,` or a closing bracket is missing at "
                                              "column 16"),
        ('{"prompt": "a", "completion": }', "not JSON, a value is missing at column 31"),
        ('{"prompt": "a"} x', "not JSON, more text after the end of the row at column 17"),
        ('{"prompt": "a\tb", "completion": ""}', "not JSON, a line break or tab inside a string at "
                                                 "column 14"),
        ('["a"]', 'is ["a"], has to be an object: {...}'),
        ('{"prompt": 3, "completion": "b"}', "`prompt` is the number 3, has to be text"),
        ('{"prompt": "a", "completion": ["b"]}', "`completion` is a list, has to be text"),
        ('{"messages": []}', "`messages` is an empty list, has to be a list of {role, content}"),
        ('{"messages": [{"role": "user"}]}', "message 1 is no {role, content}"),
        ('{"messages": [{"role": "user", "content": null}]}',
         "the content of message 1 is empty, has to be text"),
    ],
)  # fmt: skip
def test_each_fault_has_its_words(line: str, fault: str) -> None:
    Path("a.jsonl").write_text(f"{line}\n")
    assert refused("a.jsonl") == [f"error[bad-row] a.jsonl:1 (stage sft): {fault}"]


def test_bytes_that_are_no_text() -> None:
    Path("a.jsonl").write_bytes(b'{"prompt": "\xff"}\n')
    assert refused("a.jsonl") == ["error[bad-row] a.jsonl:1 (stage sft): not UTF-8 at byte 13"]


def test_messages_stand_for_prompt_and_completion() -> None:
    Path("a.jsonl").write_text('{"messages": [{"role": "user", "content": "hi"}]}\n')
    assert len(list(read_rows(DataSpec(path="a.jsonl"), needs=PAIR))) == 1
    assert len(list(read_rows(DataSpec(path="a.jsonl"), needs=("prompt",)))) == 1


def test_missing_columns_come_with_a_guess() -> None:
    Path("a.jsonl").write_text('{"instruction": "a", "response": "b"}\n')
    with pytest.raises(InputError) as caught:
        list(read_rows(DataSpec(path="a.jsonl"), needs=PAIR))
    assert caught.value.problems[0].render() == (
        "error[missing-column] a.jsonl:1: needs prompt, completion; has instruction, response\n"
        "  help: data.columns: {prompt: instruction, completion: response}"
    )


@pytest.mark.parametrize(
    ("needs", "has", "guess"),
    [
        (PAIR, ["question", "answer"], {"prompt": "question", "completion": "answer"}),
        (PAIR, ["Prompt", "completions"], {"prompt": "Prompt", "completion": "completions"}),
        (PAIR, ["prompt", "output"], {"completion": "output"}),
        (("text",), ["page", "id"], {"text": "page"}),
        (PAIR, ["x", "y"], {}),
    ],
)
def test_columns_are_guessed(needs: tuple[str, ...], has: list[str], guess: dict[str, str]) -> None:
    assert guess_columns(needs, has) == guess


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("b.jsonl", "error[missing-file] b.jsonl: no such file"),
        ("x/y/b.jsonl", "error[missing-file] x/y/b.jsonl: no such file"),
        ("squad", "error[missing-file] squad: no such file"),
        ("empty", "error[missing-file] empty: holds no .jsonl, .jsonl.gz, .parquet, .csv file"),
        ("empty.jsonl", "error[empty-data] empty.jsonl (stage sft): holds no rows"),
        ("blank.jsonl", "error[empty-data] blank.jsonl (stage sft): holds no rows"),
        ("header.csv", "error[empty-data] header.csv (stage sft): holds no rows"),
        ("cut.jsonl.gz", "error[unreadable-file] cut.jsonl.gz: cannot be read: Compressed file "
                         "ended before the end-of-stream marker was reached"),
        ("no.parquet", "error[unreadable-file] no.parquet: cannot be read: Parquet magic bytes not "
                       "found in footer"),
    ],
)  # fmt: skip
def test_files_that_give_nothing(path: str, expected: str) -> None:
    Path("empty").mkdir()
    Path("empty.jsonl").touch()
    Path("blank.jsonl").write_text("\n\n")
    Path("header.csv").write_text("prompt,completion\n")
    Path("cut.jsonl.gz").write_bytes(
        gzip.compress(b'{"prompt": "a", "completion": "b"}\n' * 99)[:-9]
    )
    Path("no.parquet").write_bytes(b"nothing of the kind")
    assert refused(path)[0].startswith(expected)


def test_a_row_of_another_length_is_a_bad_row() -> None:
    Path("a.csv").write_text("prompt,completion\na,b\na,b,c\n")
    assert refused("a.csv") == [
        "error[bad-row] a.csv:3 (stage sft): has 3 fields, the first line 2"
    ]


def test_all_rows_skipped_is_empty_data() -> None:
    Path("a.jsonl").write_text("x\ny\n")
    assert refused("a.jsonl", bad_rows="skip") == [
        "error[empty-data] a.jsonl (stage sft): holds no row that can be used (2 skipped)"
    ]


def test_limits_stop_early_and_say_so() -> None:
    Path("a.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 100)
    spec = DataSpec(path="a.jsonl")
    for reader, rows, complete in (
        (read_rows(spec, 10, needs=PAIR), 10, False),
        (read_rows(spec, needs=PAIR, limit_bytes=10 * 35), 10, False),
        (read_rows(spec, needs=PAIR), 100, True),
    ):
        assert len(list(reader)) == rows
        assert reader.complete is complete


def test_hub_names() -> None:
    assert is_hub_name("openai/gsm8k")
    assert not is_hub_name("squad")
    assert not is_hub_name("./openai/gsm8k")
    assert not is_hub_name("data/a.jsonl")
    Path("openai/gsm8k").mkdir(parents=True)
    assert not is_hub_name("openai/gsm8k")


def test_an_unreachable_hub_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach 'openai/gsm8k' on the Hub\nmore")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    assert refused("openai/gsm8k") == [
        "error[hub-unreachable] data.path: `openai/gsm8k` cannot be fetched, and no copy is in the "
        "cache (Couldn't reach 'openai/gsm8k' on the Hub)"
    ]


def test_hub_rows_are_numbered_and_renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[Any] = []

    def load(*arguments: Any, **options: Any) -> list[dict[str, str]]:
        asked.append((arguments, options))
        return [{"question": "a", "answer": "b"}]

    monkeypatch.setattr(datasets, "load_dataset", load)
    spec = DataSpec(
        path="openai/gsm8k", name="main", revision="v1",
        columns={"prompt": "question", "completion": "answer"},
    )  # fmt: skip
    assert list(read_rows(spec, needs=PAIR)) == [
        (1, {"question": "a", "answer": "b", "prompt": "a", "completion": "b"})
    ]
    assert asked == [(("openai/gsm8k", "main"), {"split": "train", "revision": "v1"})]


def test_fingerprints_follow_content() -> None:
    Path("a.jsonl").write_text("1\n")
    Path("b.jsonl").write_text("1\n")
    first = data_fingerprint(DataSpec(path="a.jsonl"))
    assert len(first) == 16
    assert data_fingerprint(DataSpec(path="b.jsonl", split="test")) == first
    Path("b.jsonl").write_text("2\n")
    assert data_fingerprint(DataSpec(path="b.jsonl")) != first
    hub = [
        data_fingerprint(DataSpec(path="openai/gsm8k", **options))
        for options in ({}, {"name": "main"}, {"split": "test"}, {"revision": "v1"})
    ]
    assert len(set(hub)) == 4
    assert data_fingerprint(DataSpec(path="microworld/copy")) != data_fingerprint(
        DataSpec(path="microworld/copy", split="test")
    )
