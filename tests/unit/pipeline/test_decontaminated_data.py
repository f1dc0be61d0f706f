"""`check`, identities, and the look before the start, where rows are compared with questions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.config.load import load_pipeline
from posttrain.pipeline.check import check
from posttrain.stages.preflight import Origin, PreflightRequest, inspect

SFT = "data: microworld/arithmetic_worked"
CLEAN = "data: {path: microworld/arithmetic_worked, decontaminate: abilities}"
QUESTION = "Ann has three red apples and buys two more at the market, how many has she now?"


def rendered(file):
    return [problem.render() for problem in check(load_pipeline(file)).problems]


def test_a_suite_that_exists_is_fine(write_pipeline):
    assert rendered(write_pipeline(SFT, CLEAN)) == []


def test_an_unknown_suite_is_refused_at_its_key(write_pipeline):
    assert rendered(write_pipeline(SFT, CLEAN.replace("abilities", "abilites"))) == [
        "error[unknown-suite] mine.yaml:7 stages.sft.data.decontaminate: no suite `abilites`\n"
        "  help: did you mean `abilities`?"
    ]
    mix = "data: {mix: {a: {path: microworld/arithmetic_worked, decontaminate: abilites}}}"
    assert rendered(write_pipeline(SFT, mix)) == [
        "error[unknown-suite] mine.yaml:7 stages.sft.data.mix.a.decontaminate: no suite "
        "`abilites`\n  help: did you mean `abilities`?"
    ]


def test_a_suite_without_questions_is_refused(write_pipeline):
    file = write_pipeline(
        SFT, CLEAN.replace("abilities", "fluency"),
        "\nstages:", "\n  fluency: {keep: [perplexity/wikitext]}\nstages:",
    )  # fmt: skip
    assert rendered(file) == [
        "error[empty-suite] mine.yaml:8 stages.sft.data.decontaminate: `fluency` asks no "
        "questions that rows could be compared with\n"
        "  help: a task with a reward: perplexity reads text, the harness keeps its questions"
    ]


def test_rows_are_counted_as_a_bound(write_pipeline):
    file = write_pipeline(f"{SFT}, steps: 10", CLEAN.replace("path", "take: 100, path"))
    # (100 - 64) / 32 = 1.1
    assert check(load_pipeline(file)).notes[1] == (
        "sft: 32 rows = 1 step; at most 80 rows (20 held out) × 1 epoch = 3 steps"
    )


@pytest.fixture
def identity(plan_of):
    """`identity(*changes)`: of the stage `sft`, with a task in a file of ours."""
    Path("questions.jsonl").write_text(json.dumps({"prompt": QUESTION, "answer": "5"}) + "\n")
    tasks = "tasks: {mine: {data: questions.jsonl, reward: gsm8k}}"
    return lambda *changes: plan_of(
        changes=("keep: [microworld/copy]", f"keep: [mine], {tasks}", *changes)
    )["sft"]


def test_questions_are_in_the_identity(write_pipeline, identity):
    before, same = identity(SFT, SFT), identity(SFT, CLEAN)
    assert before.identity != same.identity
    assert "questions" not in same.config()["data"]
    assert same.config()["data"]["decontaminate"] == "abilities"
    assert identity(SFT, CLEAN, "tax_since: base", "prompts_per_task: 9").identity == same.identity
    mix = "data: {mix: {%s}}"
    part = "%s: {path: microworld/arithmetic_worked%s}"
    clean = ", decontaminate: abilities"
    one, other = (
        identity(SFT, mix % ", ".join((part % ("a", first), part % ("b", second)))).identity
        for first, second in ((clean, ""), ("", clean))
    )
    assert one != other
    Path("questions.jsonl").write_text(json.dumps({"prompt": "another", "answer": "5"}) + "\n")
    assert identity(SFT, SFT).identity == before.identity
    assert identity(SFT, CLEAN).identity != same.identity


def test_a_renamed_suite_changes_nothing(write_pipeline, plan_of):
    first = plan_of(changes=(SFT, CLEAN))["sft"].identity
    renamed = plan_of(
        changes=(
            SFT, CLEAN.replace("abilities", "exam"),
            "  abilities: {gain", "  exam: {gain",
            "suite: abilities", "suite: exam",
        )
    )["sft"].identity  # fmt: skip
    assert renamed == first


def test_rows_that_are_all_questions_are_refused_before_the_start(tmp_path, plan_of):
    row = {"prompt": "copy abc=", "completion": "abc"}
    Path("rows.jsonl").write_text((json.dumps(row) + "\n") * 3)
    asked = {"path": str(tmp_path / "rows.jsonl"), "split": "test"}
    data = {
        "path": str(tmp_path / "rows.jsonl"),
        "decontaminate": "abilities",
        "questions": {"abilities": {"mine": asked}},
    }
    request = PreflightRequest("sft", "sft", Origin(None, "micro", None), data)
    assert [problem.render() for problem in inspect([request])] == [
        f"error[all-contaminated] {tmp_path}/rows.jsonl data.decontaminate (stage sft): all 3 rows "
        "overlap with questions of `abilities`\n"
        "  help: train on another split, or ask other questions"
    ]
