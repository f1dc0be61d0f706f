"""What `check` says of options that keep a stage near its start, and what they do to identities."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.cli.explanations import EXPLANATIONS
from posttrain.config.load import load_pipeline
from posttrain.pipeline.check import check

SFT = "data: microworld/arithmetic_worked, steps: 10}"


def rendered(file: str) -> list[str]:
    return [problem.render() for problem in check(load_pipeline(file, ())).problems]


@pytest.mark.parametrize(
    "keys",
    [
        "start_penalty: {l2: 0.01}",
        "start_penalty: {l1: 0.04, l2: 0.01}",
        "half_fine_tuning: true",
        "ema: {}",
        "early_stopping: {}",
        "early_stopping: {patience: 3, every: 2}",
        "lora: {rank: 4}, early_stopping: {}",
    ],
)
def test_what_means_something_is_accepted(write_pipeline, keys: str) -> None:
    assert rendered(write_pipeline(SFT, f"{SFT[:-1]}, {keys}}}")) == []


@pytest.mark.parametrize(
    ("keys", "code", "message"),
    [
        ("start_penalty: {}", "bad-value", "costs nothing"),
        ("start_penalty: {l1: 1, l2: -1}", "bad-value", "start_penalty.l2"),
        ("ema: {decay: 1}", "bad-value", "ema.decay"),
        ("early_stopping: {patience: 0}", "bad-value", "early_stopping.patience"),
        (
            "early_stopping: {every: 10}",
            "unused-setting",
            "stages.sft.early_stopping.every: is 10: nothing is measured before the last of 10",
        ),
        (
            "early_stopping: {}, holdout_rows: 0",
            "nothing-held-out",
            "stages.sft.early_stopping: `early_stopping` looks at held-out rows, and",
        ),
        (
            "lora: {}, half_fine_tuning: true",
            "restraint-with-lora",
            "stages.sft.half_fine_tuning: `half_fine_tuning` is for stages that train all weights",
        ),
        (
            "lora: {}, ema: {}",
            "restraint-with-lora",
            "stages.sft.ema: `ema` is for stages that train all weights, and this one has `lora`",
        ),
        ("stop_at_kl: 5", "unknown-key", "stop_at_kl"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    write_pipeline, keys: str, code: str, message: str
) -> None:
    (line,) = rendered(write_pipeline(SFT, f"{SFT[:-1]}, {keys}}}"))
    assert line.startswith(f"error[{code}] mine.yaml:") and message in line
    assert code in EXPLANATIONS


def test_too_few_rows_to_hold_one_out(write_pipeline, tmp_path: Path) -> None:
    row = json.dumps({"prompt": "a", "completion": "b"})
    (tmp_path / "rows.jsonl").write_text(f"{row}\n" * 4)
    keys = "data: rows.jsonl, batch: {rows: 4}, steps: 10, early_stopping: {}}"
    (line,) = rendered(write_pipeline(SFT, keys))
    assert "error[nothing-held-out]" in line and "of 4 rows none is" in line


def test_online_stages_take_them_too(write_pipeline) -> None:
    keys = "    stop_at_kl: 5\n    start_penalty: {l2: 0.01}\n    ema: {decay: 0.9}\n"
    assert rendered(write_pipeline("    steps: 60\n", f"{keys}    steps: 60\n")) == []
    lora = f"    lora: {{}}\n{keys}"
    lines = rendered(write_pipeline("    steps: 60\n", f"{lora}    steps: 60\n"))
    assert [line.split("]")[0] for line in lines] == ["error[restraint-with-lora"] * 2


def test_a_stage_without_them_is_what_it_was(plan_of) -> None:
    before, changed = plan_of(), plan_of("stages.sft.ema.decay=0.9")
    config = before["sft"].config()
    unasked = ("start_penalty", "half_fine_tuning", "ema", "early_stopping")
    assert not set(unasked) & config.keys()
    assert "stop_at_kl" not in before["rlvr"].config()
    assert before["base"].identity == changed["base"].identity
    assert before["sft"].identity != changed["sft"].identity
