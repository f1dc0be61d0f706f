"""YAML with lines: scalar rules, places, and one clear sentence per slip."""

from __future__ import annotations

import pytest

from posttrain.config.document import parse_document, parse_value
from posttrain.errors import InputError


def refused(text: str) -> str:
    with pytest.raises(InputError) as caught:
        parse_document(text, "mine.yaml")
    assert len(caught.value.problems) == 1
    return caught.value.problems[0].render().splitlines()[0]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("3e-4", 0.0003),
        ("1e5", 100000.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("1_000", 1000),
        ("007", 7),
        ("on", "on"),
        ("no", "no"),
        ("true", True),
        ("~", None),
        ("", None),
        ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"),
        ("'3e-4'", "3e-4"),
        ("[a, 2]", ["a", 2]),
        ("{x: 1e-1}", {"x": 0.1}),
        ("../data/x.jsonl", "../data/x.jsonl"),
    ],
)
def test_scalars_follow_yaml_1_2(written: str, value: object) -> None:
    assert parse_value(written) == value


def test_every_key_knows_its_line() -> None:
    document = parse_document("a: 1\nb:\n  c: [x,\n      y]\n", "mine.yaml")
    assert document.data == {"a": 1, "b": {"c": ["x", "y"]}}
    assert document.places.of("b.c") == ("mine.yaml", 3)
    assert document.places.of("b.c.1") == ("mine.yaml", 4)
    assert document.places.of("b.c.1.not.there") == ("mine.yaml", 4)
    assert document.places.shown("a") == "mine.yaml:1"


def test_anchors_and_merge_keys_work() -> None:
    document = parse_document("x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}\nz: *x\n", "mine.yaml")
    assert document.data["y"] == {"a": 1, "b": 3}
    assert document.data["z"] == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\n\tb: 2\n", "error[bad-yaml] mine.yaml:2: a tab stands in the indentation"),
        (
            "stages:\n  sft:\n    kind: sft\n   model: base\n",
            "error[bad-yaml] mine.yaml:4: the indentation does not fit the block that starts in "
            "line 2",
        ),
        (
            "stages:\n  a: 1\n   b: 2\n",
            "error[bad-yaml] mine.yaml:3: the indentation does not fit, or a value holds `: ` "
            "without quotes",
        ),
        ("a: {b: 1\nc: 2\n", "error[bad-yaml] mine.yaml:1: `{` is not closed, or a `,` is missing"),
        ("a: [1, 2\nc: 3\n", "error[bad-yaml] mine.yaml:1: `[` is not closed, or a `,` is missing"),
        ('a: "x\nb: 2\n', "error[bad-yaml] mine.yaml:1: a quotation mark is not closed"),
        ("a: 1\nb\nc: 2\n", "error[bad-yaml] mine.yaml:3: a key has no `:` behind it"),
        ("a: @x\n", "error[bad-yaml] mine.yaml:1: `@` cannot start a value"),
        ("a: *x\n", "error[bad-yaml] mine.yaml:1: no anchor for alias 'x'"),
        ("a: 1\n---\nb: 1\n", "error[bad-yaml] mine.yaml:2: a second document starts here (`---`)"),
        ("[" * 2000, "error[bad-yaml] mine.yaml: nested too deep to be read"),
    ],
)
def test_malformed_yaml_is_one_sentence_with_a_line(text: str, line: str) -> None:
    assert refused(text) == line


def test_duplicate_keys_are_mistakes() -> None:
    problems = parse_document("a: 1\nb: 2\na: 3\n", "mine.yaml").problems
    assert [problem.render() for problem in problems] == [
        "error[duplicate-key] mine.yaml:3: `a` is given twice, first in line 1\n"
        "  help: keep one of the two"
    ]


def test_an_alias_to_its_own_block_ends() -> None:
    problems = parse_document("a: &x {b: *x}\n", "mine.yaml").problems
    assert [problem.message for problem in problems] == [
        "an alias (`*name`) stands inside what it names"
    ]
