"""Rows that overlap with a suite's questions are left out, counted, and shown."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from posttrain.config.data import DataSpec
from posttrain.config.suites import Suite
from posttrain.config.tasks import resolved
from posttrain.errors import InputError
from posttrain.prompts.decontamination import (
    EXAMPLES,
    TrainingRows,
    questions_fingerprint,
    tell_left_out,
    user_texts,
)

QUESTION = "Ann has three red apples and buys two more at the market, how many has she now?"
OTHER = "A train leaves at noon and goes sixty miles an hour, how far is it at four?"
CLEAN = "Write a short poem about the sea and the wind that crosses it at night."


@pytest.fixture
def write(tmp_path):
    def write_file(name, *rows):
        path = tmp_path / name
        path.write_text(
            "".join(
                json.dumps({"prompt": each, "completion": "x"} if isinstance(each, str) else each)
                + "\n"
                for each in rows
            )
        )
        return str(path)

    return write_file


@pytest.fixture
def suites(write):
    """`abilities` asks two tasks and a perplexity, `other` one task."""
    tasks = {
        "apples": {"data": write("apples.jsonl", QUESTION, "copy ab="), "reward": "gsm8k"},
        "trains": {"data": write("trains.jsonl", OTHER, QUESTION), "reward": "gsm8k"},
        "text": {"data": write("text.jsonl", {"text": CLEAN})},
    }
    other = {"trains": {"data": write("other.jsonl", OTHER), "reward": "gsm8k"}}
    return {
        "abilities": Suite.model_validate(
            {"gain": ["apples", "trains"], "keep": ["text"], "tasks": tasks, "prompts_per_task": 1}
        ),
        "other": Suite.model_validate({"gain": ["trains"], "tasks": other}),
    }


@pytest.fixture
def read(suites):
    """`read(data)`: (prompts kept, report)."""

    def read_rows(data, needs=("prompt",)):
        rows = TrainingRows(resolved(DataSpec.model_validate(data), suites), seed=0, needs=needs)
        return [each.row.get("prompt") for each in rows], rows.report

    return read_rows


def test_rows_are_left_out_and_counted_by_source_and_task(read, write):
    path = write("rows.jsonl", CLEAN, f"Please: {QUESTION.upper()}", OTHER, "copy ab", "copy abc=")
    kept, report = read({"path": path, "decontaminate": "abilities"})
    assert kept == [CLEAN, "copy abc="]  # perplexity's text is no question
    assert report == {
        "schema": 1,
        "text": "3 of 5 rows overlap with questions and are left out: apples 2, trains 2",
        "rows": 5,
        "left_out": 3,
        "questions": {"abilities": {"apples": 2, "trains": 2}},
        "sources": {
            path: {
                "rows": 5,
                "left_out": 3,
                "tasks": {
                    "apples": {
                        "rows": 2,
                        "examples": [
                            {
                                "row": f"{path}:2",
                                "prompt": f"Please: {QUESTION.upper()}",
                                "question": QUESTION,
                                "share": 1.0,
                            },
                            {
                                "row": f"{path}:4",
                                "prompt": "copy ab",
                                "question": "copy ab=",
                                "share": 1.0,
                            },
                        ],
                    },
                    "trains": {
                        "rows": 2,
                        "examples": [
                            {
                                "row": f"{path}:2",
                                "prompt": f"Please: {QUESTION.upper()}",
                                "question": QUESTION,
                                "share": 1.0,
                            },
                            {
                                "row": f"{path}:3",
                                "prompt": OTHER,
                                "question": OTHER,
                                "share": 1.0,
                            },
                        ],
                    },
                },
            }
        },
    }


def test_without_the_key_nothing_is_compared(read, write):
    assert read({"path": write("rows.jsonl", QUESTION)}) == ([QUESTION], None)


def test_completions_may_hold_a_question(read, write):
    path = write("rows.jsonl", {"prompt": CLEAN, "completion": QUESTION})
    assert read({"path": path, "decontaminate": "abilities"})[0] == [CLEAN]


def test_every_turn_of_the_user_counts(read, write):
    def talk(*texts):
        roles = ("system", "user", "assistant", "user")
        return {
            "prompt": texts[1],
            "messages": [
                {"role": role, "content": text} for role, text in zip(roles, texts, strict=True)
            ],
        }

    rows = [talk(QUESTION, "a", QUESTION, "b"), talk("s", "c", "d", f"And now: {QUESTION}")]
    path = write("rows.jsonl", *rows)
    kept, report = read({"path": path, "decontaminate": "abilities"}, ("prompt", "completion"))
    assert kept == ["a"]
    example = report["sources"][path]["tasks"]["apples"]["examples"][0]
    assert example["prompt"] == f"And now: {QUESTION}"
    assert user_texts(rows[1]) == ["c", f"And now: {QUESTION}"]
    assert user_texts({"text": QUESTION}) == []


def test_a_part_says_for_itself_what_it_is_compared_with(read, write):
    path = write("rows.jsonl", QUESTION, OTHER, CLEAN)
    mix = {"one": path, "two": {"path": path, "decontaminate": "other"}}
    kept, report = read({"mix": mix, "decontaminate": "abilities"})
    assert kept == [CLEAN, QUESTION, CLEAN]
    assert {
        source: (counted["rows"], counted["left_out"], list(counted["tasks"]))
        for source, counted in report["sources"].items()
    } == {"one": (3, 2, ["apples", "trains"]), "two": (3, 1, ["trains"])}
    kept, report = read({"mix": mix})
    assert kept == [QUESTION, OTHER, CLEAN, QUESTION, CLEAN]
    assert list(report["sources"]) == ["two"]


def test_all_of_planted_questions_are_left_out(read, write, suites):
    clean = [f"{CLEAN} {number} " * 2 for number in range(200)]
    planted = [f"{number} {QUESTION if number % 2 else OTHER} {number}" for number in range(50)]
    mixed = [row for pair in zip(clean[:50], planted, strict=True) for row in pair] + clean[50:]
    kept, report = read({"path": write("rows.jsonl", *mixed), "decontaminate": "abilities"})
    assert kept == clean
    assert report["left_out"] == 50
    tasks = next(iter(report["sources"].values()))["tasks"]
    assert len(tasks["trains"]["examples"]) == EXAMPLES == 10
    assert (tasks["apples"]["rows"], tasks["trains"]["rows"]) == (25, 50)


def test_nothing_left_is_said(read, write):
    path = write("rows.jsonl", QUESTION, OTHER)
    with pytest.raises(InputError) as caught:
        read({"path": path, "decontaminate": "abilities"})
    assert caught.value.problems[0].render() == (
        f"error[all-contaminated] {path} data.decontaminate: all 2 rows overlap with questions of "
        "`abilities`\n  help: train on another split, or ask other questions"
    )


def test_questions_that_cannot_be_read_are_named(read, write, suites):
    spec = suites["abilities"].tasks["apples"].data
    write("apples.jsonl", {"question": "a"})
    with pytest.raises(InputError) as caught:
        read({"path": write("rows.jsonl", CLEAN), "decontaminate": "abilities"})
    problem = caught.value.problems[0]
    assert (problem.code, problem.file) == ("missing-column", spec.path)
    assert problem.path == "(task apples of abilities, for data.decontaminate)"


def test_the_micro_world_loses_nothing():
    suite = Suite(gain=["microworld/arithmetic"], keep=["microworld/copy", "microworld/sort"])
    data = DataSpec(path="microworld/arithmetic_worked", decontaminate="abilities")
    rows = TrainingRows(resolved(data, {"abilities": suite}), seed=5, needs=("prompt",))
    assert sum(1 for _ in rows) == 16_000
    assert rows.report["questions"]["abilities"]["microworld/arithmetic"] == 1024
    assert rows.report["text"] == "0 of 16000 rows overlap with questions"


def test_the_report_is_a_file_and_an_event(read, write, suites, tmp_path):
    data = DataSpec(path=write("rows.jsonl", CLEAN, OTHER), decontaminate="other")
    rows = TrainingRows(resolved(data, suites), seed=0, needs=("prompt",))
    events = []
    tracker = SimpleNamespace(event=lambda name, **details: events.append((name, details)))
    file = tmp_path / "decontamination.json"
    tell_left_out(file, tracker)
    rows.write_report(str(file))
    assert not file.exists()  # nothing was compared yet
    list(rows)
    rows.write_report(None)
    rows.write_report(str(file))
    assert json.loads(file.read_text()) == rows.report
    tell_left_out(file, tracker)
    text = "1 of 2 rows overlap with questions and are left out: trains 1"
    assert events == [("decontaminated", {"text": text})]


def test_what_rows_are_compared_with_has_a_fingerprint(write):
    def fingerprint(**tasks):
        return questions_fingerprint({name: DataSpec(**spec) for name, spec in tasks.items()})

    a, b = {"path": write("a.jsonl", QUESTION)}, {"path": write("b.jsonl", OTHER)}
    same = fingerprint(one=a, two=b)
    assert fingerprint(two=b, renamed=a) == same
    assert fingerprint(one={"path": write("moved.jsonl", QUESTION)}, two=b) == same
    assert fingerprint(one=a) != same
    assert fingerprint(one=a, two=b | {"take": 1}) != same
    write("b.jsonl", CLEAN)
    assert fingerprint(one=a, two=b) != same
