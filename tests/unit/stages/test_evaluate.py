"""The evaluate stage: several models, one document."""

import json

import pytest

from posttrain.config.pipeline import EvaluateStage
from posttrain.stages import evaluate
from posttrain.types import Artifact


def stage_of(models, **more):
    return EvaluateStage.model_validate(
        {"kind": "evaluate", "models": models, "suite": "abilities"} | more
    )


def test_the_document(suite, measured):
    models = {
        "base": measured([0, 0, 0, 1], [1, 1, 1, 1], perplexity=5.0),
        "rlvr": measured([1, 1, 1, 0], [1, 1, 1, 0], perplexity=6.0),
    }
    stage = stage_of(list(models), recommend={"tax_at_most": 50})
    document = evaluate.summarise(stage, suite, models)
    assert json.loads(json.dumps(document)) == document
    assert list(document) == [
        "suite", "models", "points", "answers", "passed", "recommended", "why",
    ]  # fmt: skip
    assert document["suite"] == "abilities"
    assert document["models"]["rlvr"]["microworld/arithmetic"]["value"] == 0.75
    assert document["models"]["base"]["perplexity/wikitext"]["kind"] == "perplexity"
    assert document["passed"]["rlvr"]["microworld/copy"] == [1, 1, 1, 0]
    assert document["points"]["base"]["tax"] is None  # nobody is taxed since itself
    assert document["points"]["base"]["gain"]["value"] == 0.25
    tax = document["points"]["rlvr"]["tax"]
    assert tax["value"] == 0.25  # 100 % - 75 %
    assert tax["low"] < 0.25 < tax["high"]
    # the even prompts of rlvr: gain 2 of 2, kept 2 of 2; the odd ones: gain 1 of 2, kept 1 of 2
    assert document["recommended"] == "rlvr"
    assert document["why"] == (
        "rlvr: gain 50 % for a tax of 50.0 points (chosen on half of the prompts, measured on the "
        "other)"
    )


def test_without_a_rule_nothing_is_recommended(suite, measured):
    document = evaluate.summarise(stage_of(["rlvr"]), suite, {"rlvr": measured([1, 1], [1, 1])})
    assert (document["recommended"], document["why"]) == (None, "")


def test_without_the_base_among_the_models_there_is_no_tax(suite, measured):
    document = evaluate.summarise(stage_of(["rlvr"]), suite, {"rlvr": measured([1, 1], [1, 1])})
    assert document["points"]["rlvr"]["tax"] is None


def test_a_suite_without_points(suite, measured):
    document = evaluate.summarise(stage_of(["rlvr"]), suite, {"rlvr": measured(perplexity=3.0)})
    assert document["points"] == {"rlvr": {"gain": None, "tax": None}}


def test_every_model_is_asked_in_order(suite, measured):
    asked, logged, events = [], [], []

    class Asker:
        def measure(self, *arguments):
            asked.append(arguments)
            return measured([1, 0], [1, 1])

    class Records:
        def log(self, metrics, **axes):
            logged.append((metrics, axes))

        def event(self, name, **details):
            events.append((name, details))

    models = {name: Artifact("model", name, "1", f"/runs/{name}") for name in ("sft", "base")}
    document = evaluate.run(stage_of(["base", "sft"]), suite, "f00d", models, Asker(), Records())
    assert asked == [
        ("/runs/base", "abilities", suite, "f00d"),
        ("/runs/sft", "abilities", suite, "f00d"),
    ]
    assert logged == [
        (
            {
                "eval/base/microworld/arithmetic/score": 0.5,
                "eval/base/microworld/copy/score": 1.0,
            },
            {"step": 0},
        ),
        (
            {"eval/sft/microworld/arithmetic/score": 0.5, "eval/sft/microworld/copy/score": 1.0},
            {"step": 1},
        ),
    ]
    assert events == [
        ("asking", {"model": "base", "prompts_per_task": 256}),
        ("asking", {"model": "sft", "prompts_per_task": 256}),
    ]
    assert document["points"]["sft"]["tax"]["value"] == pytest.approx(0.0)
