"""What a run folder holds of a plan."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from posttrain.files import write_json
from posttrain.pipeline.plan import RunPlan
from posttrain.pipeline.results import (
    asked_suites,
    is_measured,
    measurement_path,
    recommended,
    task_values,
    unmeasured,
)
from posttrain.pipeline.store import RunFolder

Plans = Callable[..., RunPlan]


def write_measurement(folder: RunFolder, plan: RunPlan, stage: str, gain: float, keep: float):
    document = {
        "fingerprint": plan.fingerprints["abilities"],
        "tasks": {
            "microworld/arithmetic": {
                "value": gain, "low": gain - 0.03, "high": gain + 0.03,
                "kind": "accuracy", "prompts": 256, "broken": 0,
            },
        },
        "points": {
            "gain": {"value": gain, "low": gain - 0.03, "high": gain + 0.03},
            "keep": {"value": keep, "low": keep - 0.04, "high": keep + 0.04},
        },
    }  # fmt: skip
    path = measurement_path(folder.stage(stage, plan[stage].identity), "abilities")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, document)


def test_trained_models_are_asked_random_weights_and_evaluations_are_not(plan_of: Plans) -> None:
    plan = plan_of()
    asked = {stage.name: asked_suites(plan, stage) for stage in plan.stages}
    assert asked == {
        "blank": [],
        "base": ["abilities"],
        "sft": ["abilities"],
        "rlvr": ["abilities"],
        "average": ["abilities"],
        "final": [],
    }


def test_only_final_suites_wait_for_the_evaluation(plan_of: Plans) -> None:
    plan = plan_of("suites.abilities.when=only_final", "stages.rlvr.gates=[]")
    assert [asked_suites(plan, stage) for stage in plan.stages] == [[]] * 6


def test_measured_means_these_questions_of_this_model(
    plan_of: Plans, run_folder: RunFolder
) -> None:
    plan = plan_of()
    assert unmeasured(plan, run_folder) == [
        ("base", "abilities"), ("sft", "abilities"), ("rlvr", "abilities"),
        ("average", "abilities"),
    ]  # fmt: skip
    write_measurement(run_folder, plan, "sft", 0.5, 0.5)
    assert unmeasured(plan, run_folder) == [
        ("base", "abilities"), ("rlvr", "abilities"), ("average", "abilities"),
    ]  # fmt: skip
    folder = run_folder.stage("sft", plan["sft"].identity)
    assert is_measured(folder, "abilities", plan.fingerprints["abilities"])
    assert not is_measured(folder, "abilities", "other questions")
    assert not is_measured(folder, "other", plan.fingerprints["abilities"])
    more = plan_of("suites.abilities.prompts_per_task=300")
    assert ("sft", "abilities") in unmeasured(more, run_folder)
    again = plan_of("stages.sft.steps=11")
    assert ("sft", "abilities") in unmeasured(again, run_folder)


def test_values_have_gain_and_tax(plan_of: Plans, run_folder: RunFolder) -> None:
    plan = plan_of()
    write_measurement(run_folder, plan, "base", 0.05, 0.90)
    write_measurement(run_folder, plan, "rlvr", 0.80, 0.85)
    values = task_values(plan, run_folder, plan["rlvr"])
    assert list(values) == ["microworld/arithmetic", "gain", "tax"]
    assert values["microworld/arithmetic"].value == 0.80
    assert (values["gain"].value, values["gain"].low) == (0.80, 0.77)
    # 0.90 - 0.85, uncertain by sqrt(0.04² + 0.04²) = 0.056569
    tax = values["tax"]
    assert (tax.value, tax.low, tax.high) == pytest.approx((0.05, -0.006569, 0.106569), abs=1e-6)


def test_without_the_base_there_is_no_tax(plan_of: Plans, run_folder: RunFolder) -> None:
    plan = plan_of()
    write_measurement(run_folder, plan, "rlvr", 0.80, 0.85)
    assert list(task_values(plan, run_folder, plan["rlvr"])) == ["microworld/arithmetic", "gain"]
    assert task_values(plan, run_folder, plan["sft"]) == {}
    no_since = plan_of(changes=(", tax_since: base", ""))
    write_measurement(run_folder, no_since, "base", 0.05, 0.90)
    assert "tax" not in task_values(no_since, run_folder, no_since["rlvr"])


def test_the_recommendation_is_that_of_the_last_evaluation_with_a_rule(
    plan_of: Plans, run_folder: RunFolder
) -> None:
    ruled = plan_of("stages.final.recommend={tax_at_most: 3}")
    assert recommended(ruled, run_folder) is None  # not there yet
    folder = run_folder.stage("final", ruled["final"].identity)
    folder.path.mkdir(parents=True)
    write_json(folder.path / "measurements.json", {"recommended": "average"})
    assert recommended(ruled, run_folder) == "average"
    write_json(folder.path / "measurements.json", {"recommended": None})
    assert recommended(ruled, run_folder) is None
    assert recommended(plan_of(), run_folder) is None  # without a rule
