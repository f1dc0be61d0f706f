"""`posttrain show` on stages that do not train on rows of a file."""

import pytest

from posttrain.cli import main

PIPELINE = """
name: mine
stages:
  blank: {kind: model, from_scratch: micro}
  good:
    kind: generate
    model: blank
    data: {path: microworld/requests, take: 40}
    samples_per_prompt: 2
    sampling: {max_new_tokens: 16}
    scored_by: request
    select: {name: best, count: 1}
  raft:
    kind: sft
    uses: sft/small
    model: blank
    data: {mix: {good: {stage: good}, skills: {path: microworld/skills, take: 100}}}
    steps: 4
"""


@pytest.fixture
def shown(tmp_path, monkeypatch, capsys):
    """`shown("good")`: the lines that `show` prints of a stage's first two rows."""
    (tmp_path / "mine.yaml").write_text(PIPELINE)
    monkeypatch.chdir(tmp_path)

    def called(stage):
        assert main(["show", "mine.yaml", stage, "--rows", "2"]) == 0
        return capsys.readouterr().out.splitlines()

    return called


def test_prompts_of_a_stage_that_makes_answers(shown):
    first, second = shown("good")
    assert first.startswith("microworld/requests:1  ") and first.endswith(" tokens trained")
    assert "   0 of " in second


def test_rows_that_another_stage_will_make_are_said_to_be_so(shown):
    made, *rows = shown("raft")
    assert made == "good  made by stage good: its folder's dataset/rows.jsonl"
    assert [row.split(":")[0] for row in rows] == ["skills  microworld/skills"] * 2
    assert all("[" in row for row in rows)  # trained tokens
