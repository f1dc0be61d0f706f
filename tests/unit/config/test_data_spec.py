"""Data of a stage: one data set, or a mixture of several."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from posttrain.config.data import DataSpec, ResolvedData
from posttrain.config.load import load_pipeline
from posttrain.config.offline import SftStage
from posttrain.config.suites import Suite, TaskSpec
from posttrain.config.tasks import resolved

MIX = "data: {mix: {sums: {path: microworld/arithmetic_worked, take: 8}, rows: rows.jsonl}}"


def problems(file, *overrides):
    return [each.render() for each in load_pipeline(file, overrides).problems]


def test_a_mixture_has_its_parts_in_order_and_one_data_set_itself():
    mixture = DataSpec.model_validate({"mix": {"b": "b.jsonl", "a": {"path": "a.jsonl"}}})
    assert {name: part.path for name, part in mixture.parts.items()} == {
        "b": "b.jsonl",
        "a": "a.jsonl",
    }
    assert list(mixture.parts) == ["b", "a"]
    assert mixture.shown == "b + a"
    single = DataSpec(path="a.jsonl", take=3)
    assert single.parts == {"a.jsonl": single}
    assert DataSpec.model_validate(mixture.model_dump()) == mixture  # as processes are sent it


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "`path` is missing"),
        ({"take": 3}, "`path` is missing"),
        ({"path": "a.jsonl", "mix": {"a": "a.jsonl"}}, "`path` beside `mix`, which is not one"),
        ({"mix": {"a": "a.jsonl"}, "take": 3, "split": "all"}, "`split`, `take` beside `mix`"),
        ({"mix": {"a": {"mix": {"b": "b.jsonl"}}}}, "`a` is a mixture itself"),
        ({"mix": {"a.b": "a.jsonl"}}, "`a.b` is no name for a part"),
    ],
)
def test_what_is_no_data_is_said(spec, message):
    with pytest.raises(ValidationError, match=message.replace("(", r"\(")):
        DataSpec.model_validate(spec)


def test_a_task_asks_one_data_set_and_is_compared_with_none():
    with pytest.raises(ValidationError, match="a task asks one data set"):
        TaskSpec.model_validate({"data": {"mix": {"a": "a.jsonl"}}, "reward": "gsm8k"})
    with pytest.raises(ValidationError, match="questions are what rows are compared with"):
        TaskSpec.model_validate({"data": {"path": "a.jsonl", "decontaminate": "abilities"}})


def test_a_suite_of_a_mixture_is_that_of_parts_without_their_own():
    parts = {"a": "a.jsonl", "b": {"path": "b.jsonl", "decontaminate": "other"}}
    mixture = DataSpec.model_validate({"mix": parts, "decontaminate": "abilities"})
    suites = [part.decontaminate for part in mixture.parts.values()]
    assert suites == ["abilities", "other"]
    assert DataSpec(path="a.jsonl", decontaminate="abilities").parts["a.jsonl"].decontaminate


def test_questions_travel_with_data_and_are_not_written_down():
    suite = Suite(gain=["microworld/copy"], keep=["perplexity/wikitext"])
    data = DataSpec(path="rows.jsonl", decontaminate="abilities")
    sent = resolved(data, {"abilities": suite, "unused": suite})
    copied = DataSpec(path="microworld/copy", split="test")
    assert sent.questions == {"abilities": {"microworld/copy": copied}}
    assert ResolvedData.model_validate(sent.model_dump()) == sent
    assert resolved(sent, {"abilities": suite}) == sent
    stage = SftStage.model_validate({"kind": "sft", "model": "base", "data": data})
    planned = stage.model_copy(update={"data": sent})
    assert planned.model_dump() == stage.model_dump()
    assert planned.data.model_dump()["questions"]


def test_files_of_parts_lie_beside_the_pipeline_file(write_pipeline):
    Path("rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    loaded = load_pipeline(write_pipeline("data: microworld/arithmetic_worked", MIX))
    parts = loaded.pipeline.stages["sft"].data.parts
    assert parts["sums"].path == "microworld/arithmetic_worked"
    assert parts["rows"].path == str(Path("rows.jsonl").resolve())


def test_mistakes_in_a_mixture_have_their_place(write_pipeline):
    file = write_pipeline("data: microworld/arithmetic_worked", MIX.replace("take", "tkae"))
    assert problems(file) == [
        "error[unknown-key] mine.yaml:7 stages.sft.data.mix.sums: no key `tkae`\n"
        "  help: did you mean `take`?"
    ]
    file = write_pipeline(
        "data: microworld/arithmetic_worked", MIX.replace("{mix", "{take: 2, mix")
    )
    assert problems(file) == [
        "error[bad-value] mine.yaml:7 stages.sft.data: `take` beside `mix`, which is not one data "
        "set\n  help: give each part its own: mix: {NAME: {path: ..., take: 2000}}"
    ]
    file = write_pipeline("data: microworld/arithmetic_worked", "data: {split: train}")
    assert problems(file)[0].startswith(
        "error[missing-key] mine.yaml:7 stages.sft.data: `path` is missing\n  help: `microworld/"
    )


def test_overrides_reach_parts_and_replace_mixtures(write_pipeline):
    file = write_pipeline("data: microworld/arithmetic_worked", MIX)
    stage = load_pipeline(file, ["stages.sft.data.mix.sums.take=5"]).pipeline.stages["sft"]
    assert stage.data.parts["sums"].take == 5
    stage = load_pipeline(file, ["stages.sft.data.path=microworld/skills"]).pipeline.stages["sft"]
    assert (stage.data.path, stage.data.mix) == ("microworld/skills", {})
    stage = load_pipeline(file, ["stages.base.data.mix={s: microworld/skills}"]).pipeline.stages[
        "base"
    ]
    assert list(stage.data.parts) == ["s"]


def test_a_mixture_takes_the_place_of_a_presets_data(write_pipeline):
    Path("preset.yaml").write_text("data: {path: rows.jsonl, columns: {prompt: question}}\n")
    file = write_pipeline(
        "model: base, data: microworld/arithmetic_worked",
        f"model: base, uses: ./preset.yaml, {MIX}",
    )
    assert list(load_pipeline(file).pipeline.stages["sft"].data.parts) == ["sums", "rows"]
    Path("preset.yaml").write_text(f"{MIX}\n")
    file = write_pipeline(
        "data: microworld/arithmetic_worked", "uses: ./preset.yaml, data: microworld/skills"
    )
    assert load_pipeline(file).pipeline.stages["sft"].data.path == "microworld/skills"


def test_a_mixture_can_be_named_elsewhere(write_pipeline):
    file = write_pipeline(
        "data: microworld/arithmetic_worked", MIX,
        "data: microworld/arithmetic\n", 'data: "${stages.sft.data}"\n',
    )  # fmt: skip
    stages = load_pipeline(file).pipeline.stages
    assert stages["rlvr"].data == stages["sft"].data
