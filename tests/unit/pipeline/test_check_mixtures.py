"""`check`, `plan` and the look before the start, over mixtures of data sets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.config.document import Places
from posttrain.config.load import load_pipeline
from posttrain.pipeline.check import check
from posttrain.stages.preflight import ROWS_TRIED, PreflightRequest, _few

MIXED = """data:
      mix:
        sums: {path: microworld/arithmetic_worked, take: 900}
        rows: {path: rows.jsonl, columns: {prompt: question, completion: answer}, take: 50}
    epochs: 1"""


@pytest.fixture
def mixed(write_pipeline):
    """`mixed(rows, old, new)`: a pipeline whose stage `sft` mixes sums with these rows."""

    def write(rows, *changes):
        Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        text = MIXED
        for old, new in zip(changes[::2], changes[1::2], strict=True):
            text = text.replace(old, new)
        return write_pipeline(
            "sft: {kind: sft, model: base, data: microworld/arithmetic_worked, steps: 10}",
            f"sft:\n    kind: sft\n    model: base\n    {text}",
        )

    return write


def report_of(file):
    return check(load_pipeline(file))


def test_rows_of_all_parts_are_counted(mixed):
    report = report_of(mixed([{"question": "a", "answer": "b"}] * 80))
    assert report.problems == ()
    # (900 + 50 - 64) / 32 = 27.7
    assert report.notes[1] == "sft: 32 rows = 1 step; 886 rows (64 held out) × 1 epoch = 28 steps"


def test_a_part_on_a_hub_leaves_the_number_of_rows_open(mixed):
    rows = [{"question": "a", "answer": "b"}]
    report = report_of(mixed(rows, "path: rows.jsonl", "path: openai/gsm8k"))
    assert report.problems == ()
    assert report.notes[1] == "sft: 32 rows = 1 step; 1 epoch of sums + rows"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            ("completion: answer", "completion: answr"),
            "error[missing-column] mine.yaml:13 → rows.jsonl:1 (stage sft, rows): no column "
            "`answr` (data.columns.completion); has question, answer\n  help: did you mean "
            "`answer`?",
        ),
        (
            ("rows.jsonl", "rosw.jsonl"),
            "error[missing-file] mine.yaml:13 stages.sft.data.mix.rows.path: no file "
            "`rosw.jsonl`\n  help: did you mean `rows.jsonl`?",
        ),
        (
            ("microworld/arithmetic_worked", "microworld/arithmetic_wrked"),
            "error[unknown-source] mine.yaml:12 stages.sft.data.mix.sums.path: no micro-world "
            "source `microworld/arithmetic_wrked`\n  help: did you mean "
            "`microworld/arithmetic_worked`?",
        ),
        (
            ("microworld/arithmetic_worked", "microworld/arithmetic"),
            "error[missing-column] mine.yaml:12 stages.sft.data.mix.sums.path: "
            "`microworld/arithmetic` has prompt, task, answer; needs prompt, completion\n  help: "
            "sources that have them: microworld/skills, microworld/arithmetic_worked, "
            "microworld/requests_answered",
        ),
    ],
)
def test_mistakes_are_placed_at_their_part(mixed, change, expected):
    file = mixed([{"question": "a", "answer": "b"}], *change)
    assert [problem.render() for problem in report_of(file).problems] == [expected]


def test_a_bad_row_of_a_part_is_found(mixed):
    file = mixed([{"question": "a", "answer": "b"}, {"question": "a", "answer": 3}])
    assert [problem.render() for problem in report_of(file).problems] == [
        "error[bad-row] rows.jsonl:2 (stage sft, rows): `completion` is the number 3, has to be "
        "text\n  help: mend the rows, or `data.bad_rows: skip` leaves them out and counts them"
    ]


def test_prompts_of_all_parts_are_counted(write_pipeline):
    Path("rows.jsonl").write_text('{"prompt": "a", "answer": "1"}\n' * 9)
    part = "{path: rows.jsonl, take: 3}"
    file = write_pipeline(
        "data: microworld/arithmetic\n", f"data: {{mix: {{one: {part}, other: {part}}}}}\n"
    )
    messages = [problem.message for problem in report_of(file).problems]
    assert messages == ["32 prompts per step, but the data holds 2 different ones"]


def test_a_plan_names_every_part(plan_of):
    mix = "data: {mix: {a: microworld/skills, b: {path: microworld/arithmetic_worked, take: 9}}}"
    old = "data: microworld/arithmetic_worked"
    plan = plan_of(changes=(old, mix))
    assert [data["path"] for data in plan["sft"].data] == [
        "microworld/skills", "microworld/arithmetic_worked",
    ]  # fmt: skip
    again = plan_of(changes=(old, mix.replace("take: 9", "take: 8")))
    assert again["sft"].identity != plan["sft"].identity
    assert again["base"].identity == plan["base"].identity


def test_few_rows_of_each_part_are_looked_at_before_the_start():
    data = {"mix": {"a": {"path": "a.jsonl"}, "b": {"path": "b.jsonl", "take": 7}}}
    few = _few(PreflightRequest("sft", "sft", data=data, places=Places()))
    assert few["mix"]["a"]["take"] == ROWS_TRIED // 2
    assert few["mix"]["b"]["take"] == 7
    assert _few(PreflightRequest("sft", "sft", data={"path": "a"})) == {
        "path": "a", "take": ROWS_TRIED,
    }  # fmt: skip
