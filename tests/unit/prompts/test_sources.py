"""Rows from wherever they come, with their numbers."""

import pytest

from posttrain.config.data import DataSpec
from posttrain.errors import InputError
from posttrain.prompts.sources import read_data, read_source


def read(seed=0, needs=("prompt",), **spec):
    return list(read_source(DataSpec(**spec), seed=seed, needs=needs))


@pytest.fixture
def rows_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"question": "a", "answer": "1"}\n\n'
        '{"question": "b", "answer": "2"}\n{"question": "c", "answer": "3"}\n'
    )
    return path


def test_micro_world_rows_are_numbered_from_one():
    found = read(path="microworld/arithmetic", take=2)
    assert [number for number, _ in found] == [1, 2]
    assert found[0][1] == {
        "prompt": "81+79=", "task": "microworld/arithmetic", "answer": "160",
    }  # fmt: skip


def test_the_seed_counts_for_training_rows_only():
    train = {"path": "microworld/copy", "take": 20}
    assert read(seed=1, **train) == read(seed=1, **train)
    assert read(seed=1, **train) != read(seed=2, **train)
    test = train | {"split": "test"}
    assert read(seed=1, **test) == read(seed=2, **test)
    assert read(seed=1, **test) != read(seed=1, **train)


def test_fewer_rows_are_a_prefix():
    many = read(path="microworld/sort", take=30)
    assert read(path="microworld/sort", take=7) == many[:7]


def test_flipped_labels_reach_the_micro_world():
    straight = read(path="microworld/preferences", take=40, needs=())
    flipped = read(path="microworld/preferences", take=40, needs=(), flip_labels=0.5)
    assert straight != flipped


def test_file_rows_keep_their_line_numbers_and_get_our_names(rows_file):
    found = read(path=str(rows_file), columns={"prompt": "question"})
    assert [(number, row["prompt"], row["answer"]) for number, row in found] == [
        (1, "a", "1"),
        (3, "b", "2"),
        (4, "c", "3"),
    ]


def test_take_ends_the_reading_of_a_file(rows_file):
    with rows_file.open("a") as file:
        file.write("not JSON\n")
    columns = {"prompt": "question"}
    assert len(read(path=str(rows_file), columns=columns, take=3)) == 3
    with pytest.raises(InputError) as caught:
        read(path=str(rows_file), columns=columns)
    assert caught.value.problems[0].code == "bad-row"
    assert caught.value.problems[0].line == 5


def test_the_seed_does_not_count_for_files(rows_file):
    spec = {"path": str(rows_file), "columns": {"prompt": "question"}}
    assert read(seed=1, **spec) == read(seed=2, **spec)


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        ({"path": "microworld/sorting"}, "unknown-source"),
        ({"path": "microworld/sort", "split": "validation"}, "unknown-split"),
        ({"path": "nowhere.jsonl"}, "missing-file"),
    ],
)
def test_what_is_not_there_is_said(spec, code):
    with pytest.raises(InputError) as caught:
        read(**spec)
    assert caught.value.problems[0].code == code


def test_a_file_without_the_needed_column_is_said(rows_file):
    with pytest.raises(InputError) as caught:
        read(path=str(rows_file))
    assert caught.value.problems[0].code == "missing-column"


def test_a_mixture_is_read_part_after_part_and_each_row_says_whose_it_is(rows_file):
    columns = {"prompt": "question", "source": "answer"}
    mixture = DataSpec.model_validate(
        {
            "mix": {
                "second": {"path": str(rows_file), "columns": columns, "take": 2},
                "first": {"path": "microworld/arithmetic", "take": 1},
            }
        }
    )
    rows = list(read_data(mixture, seed=0, needs=("prompt",)))
    assert [(each.part, each.number, each.row["prompt"], each.source) for each in rows] == [
        ("second", 1, "a", "second"),  # also where the file has a source of its own
        ("second", 3, "b", "second"),
        ("first", 1, "81+79=", "first"),
    ]
    assert [each.row["source"] for each in rows] == ["second", "second", "first"]
    assert [each.data.path for each in rows] == [str(rows_file)] * 2 + ["microworld/arithmetic"]


def test_one_data_set_has_the_source_of_its_rows_or_its_path(rows_file):
    spec = {"path": str(rows_file), "columns": {"prompt": "question", "source": "answer"}}
    rows = list(read_data(DataSpec(**spec), seed=0, needs=("prompt",)))
    assert [(each.part, each.source) for each in rows] == [
        (str(rows_file), "1"), (str(rows_file), "2"), (str(rows_file), "3"),
    ]  # fmt: skip
    spec["columns"] = {"prompt": "question"}
    first = next(read_data(DataSpec(**spec), seed=0, needs=("prompt",)))
    assert first.source == str(rows_file)
    assert "source" not in first.row
