"""What `check` says of average stages: the form their method takes, its models and its weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain.cli.explanations import EXPLANATIONS
from posttrain.config.load import load_pipeline
from posttrain.pipeline.check import check
from posttrain.pipeline.graph import build_graph
from posttrain.pipeline.plan import make_plan
from posttrain.pipeline.preflight import origin_of, preflight_requests
from posttrain.pipeline.store import RunFolder

PLACE = "mine.yaml:17 stages.average"


@pytest.fixture
def report_of(write_pipeline: Callable[..., str]):
    """Of the sound pipeline, with other keys for its `average` stage on line 17."""

    def report(keys: str):
        return check(load_pipeline(write_pipeline("pre: sft, post: rlvr", keys), ()))

    return report


@pytest.mark.parametrize(
    ("keys", "needs"),
    [
        ("method: slerp, pre: sft, post: rlvr", ("sft", "rlvr")),
        ("method: layerwise, pre: sft, post: rlvr", ("sft", "rlvr")),  # on rlvr's own rollouts
        ("method: layerwise, pre: sft, post: rlvr, weight_pre: [0.1, 0.2]",
         ("sft", "rlvr", "base")),  # the tax of several is counted since base
        ("pre: sft, post: rlvr, weight_pre: [0.1], suite: abilities, recommend: {tax_at_most: 9}",
         ("sft", "rlvr", "base")),
        ("method: soup, models: [rlvr, sft]", ("rlvr", "sft")),
        ("method: soup, models: [rlvr, sft], weights: [0.9, 0.1]", ("rlvr", "sft")),
        ("method: {name: ties, density: 0.3}, pre: base, models: [sft, rlvr]",
         ("base", "sft", "rlvr")),
        ("method: task_arithmetic, pre: base, models: [sft], weights: [-1.0]", ("base", "sft")),
        ("method: layer_swapping, models: [sft, rlvr]", ("sft", "rlvr")),
        ("method: soup, models: [rlvr, sft], greedy: true",
         ("rlvr", "sft", "base")),  # `tax_since` of the suite that decides
    ],
)  # fmt: skip
def test_sound_ones(report_of, keys: str, needs: tuple[str, ...]) -> None:
    report = report_of(keys)
    assert [problem.render() for problem in report.problems] == []
    assert report.graph.needs["average"] == needs


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (
            "pre: sft",
            f"error[missing-key] {PLACE}: `post` is missing\n  help: The stage after it.",
        ),
        (
            "post: rlvr",
            f"error[missing-key] {PLACE}: `pre` is missing\n  help: The stage before training "
            "(usually `sft`); with `models` the one they all started from.",
        ),
        (
            "pre: sft, post: rlvr, models: [rlvr]",
            f"error[bad-value] {PLACE}: `post` beside `models`\n"
            "  help: one of the two, as the method takes it",
        ),
        (
            "method: soup, models: [sft, rlvr], weights: [1.0]",
            f"error[bad-value] {PLACE}: 1 weights for 2 models\n"
            "  help: one weight for each of `models`",
        ),
        (
            "models: [sft, rlvr]",
            f"error[bad-value] {PLACE}.models: `linear` mixes two models: `pre` and `post`\n"
            "  help: pre: A, post: B",
        ),
        (
            "method: dare, pre: sft, post: rlvr",
            f"error[bad-value] {PLACE}.post: `dare` merges the models of a list\n"
            "  help: pre: BASE, models: [A, B]",
        ),
        (
            "method: soup, models: [sft]",
            f"error[bad-value] {PLACE}.models: names 1, `soup` takes 2 or more",
        ),
        (
            "method: layer_swapping, models: [base, sft, rlvr]",
            f"error[bad-value] {PLACE}.models: names 3, `layer_swapping` takes 2",
        ),
        (
            "method: ties, models: [sft, rlvr]",
            f"error[missing-key] {PLACE}: `pre` is missing\n"
            "  help: the stage that all `models` were trained from",
        ),
        (
            "method: soup, pre: base, models: [sft, rlvr]",
            f"error[unused-setting] {PLACE}.pre: `soup` does not look at `pre`\n"
            "  help: name it among `models`, or leave it out",
        ),
        (
            "method: soup, models: [sft, rlvr], weight_pre: 0.2",
            f"error[unused-setting] {PLACE}.weight_pre: `soup` does not look at `weight_pre`\n"
            "  help: weights: one for each of `models`",
        ),
        (
            "method: ema, models: [sft, rlvr], weights: [1.0, 2.0]",
            f"error[unused-setting] {PLACE}.weights: `ema` does not look at `weights`\n"
            "  help: leave it out",
        ),
        (
            "method: ties, pre: base, models: [sft, rlvr], weights: [1.0, -2.0]",
            f"error[bad-value] {PLACE}.weights: `ties` needs weights of 0 or more\n"
            "  help: or method: task_arithmetic",
        ),
        (
            "method: soup, models: [sft, rlvr], weights: [1.0, 3.0]",
            f"error[bad-value] {PLACE}.weights: sum to 4, have to sum to 1\n"
            "  help: weights: [0.25, 0.75]",
        ),
        (
            "method: layerwise, pre: base, post: sft",
            f"error[no-answers] {PLACE}.method: `layerwise` finds its coefficients on answers of "
            "`sft`, and there are none\n  help: samples: a stage like {kind: generate, model: sft, "
            "data: ..., scored_by: ...}",
        ),
        (
            "method: layerwise, pre: sft, post: rlvr, samples: sft",
            f"error[wrong-reference] {PLACE}.samples.stage: needs rows, `sft` (line 7) makes a "
            "model\n  help: no stage here makes rows",
        ),
        (
            "pre: sft, post: rlvr, weight_pre: [0.2, 0.1]",
            f"error[bad-value] {PLACE}: `weight_pre` names shares twice, or not in order\n"
            "  help: weight_pre: [0.1, 0.2]",
        ),
        (
            "pre: sft, post: rlvr, suite: abilities",
            f"error[unused-setting] {PLACE}.suite: of one share there is nothing to choose\n"
            "  help: weight_pre: [0.1, 0.2, 0.3], or leave it out",
        ),
        (
            "pre: sft, post: rlvr, weight_pre: [0.1], suite: abilites",
            f"error[unknown-suite] {PLACE}.suite.use: no suite `abilites`\n"
            "  help: did you mean `abilities`?",
        ),
        (
            "method: linear, pre: sft, post: rlvr, samples: {take: 5}",
            f"error[unused-setting] {PLACE}.samples: `linear` looks at no answers\n"
            "  help: leave it out, or method: layerwise",
        ),
        (
            "pre: sft, post: sft",
            f"error[bad-value] {PLACE}: names `sft` twice\n  help: different stages",
        ),
        (
            "method: ties, pre: base, models: [sft, base]",
            f"error[bad-value] {PLACE}: names `base` twice\n  help: different stages",
        ),
        (
            "method: ties, pre: base, models: [sft, rlvr], weights: [0.0, 0.0]",
            f"error[bad-value] {PLACE}.weights: all are 0: no model counts\n"
            "  help: weights above 0",
        ),
        (
            "method: task_arithmetic, pre: base, models: [sft, rlvr], weights: [.nan, 1.0]",
            f"error[bad-value] {PLACE}.weights.0: is nan, has to be a finite number",
        ),
        (
            "method: soup, models: [sft, rlvr], suite: abilities",
            f"error[unused-setting] {PLACE}.suite: all of `models` are merged, there is nothing "
            "to choose\n  help: greedy: true (with method: soup), or leave it out",
        ),
        (
            "method: soup, models: [sft, rlvr], greedy: true, weights: [0.5, 0.5]",
            f"error[bad-value] {PLACE}: `weights` beside `greedy`\n"
            "  help: one of the two: a greedy soup counts all alike",
        ),
        (
            "method: soup, models: [sft, rlvr], greedy: true, recommend: {tax_at_most: 1}",
            f"error[unused-setting] {PLACE}.recommend: a greedy soup has a rule of its own: what "
            "lowers the gain stays out\n  help: leave it out",
        ),
        (
            "method: ema, models: [sft, rlvr], greedy: true",
            f"error[bad-value] {PLACE}.greedy: `ema` is no mean of its models, so none can be "
            "added to it\n  help: method: soup",
        ),
        (
            "pre: sft, post: rlvr, greedy: true",
            f"error[bad-value] {PLACE}.greedy: `linear` mixes `pre` and `post`: there are no "
            "models to choose from\n  help: method: soup, models: [A, B, ...]",
        ),
        (
            "method: soup, models: [sft, rlvr], greedy: true, suite: abilites",
            f"error[unknown-suite] {PLACE}.suite.use: no suite `abilites`\n"
            "  help: did you mean `abilities`?",
        ),
        (
            "method: soup, models: [sft, rlvrr]",
            f"error[unknown-stage] {PLACE}.models.1: no stage `rlvrr`\n"
            "  help: did you mean `rlvr`?",
        ),
        (
            "method: {name: ties, density: 2}, pre: base, models: [sft, rlvr]",
            f"error[bad-value] {PLACE}.method.density: is 2, has to be 1 or less",
        ),
    ],
)
def test_what_does_not_go_together(report_of, keys: str, expected: str) -> None:
    assert [problem.render() for problem in report_of(keys).problems] == [expected]


@pytest.mark.parametrize(
    ("suite", "message"),
    [
        (
            "{keep: [microworld/copy]}",
            "`abilities` has no `gain`, so the models cannot be compared",
        ),
        (
            "{gain: [text], tasks: {text: {data: microworld/skills}}}",
            "every gain task of `abilities` is a perplexity, which is no gain",
        ),
    ],
)
def test_a_greedy_soup_needs_a_gain(write_pipeline, suite: str, message: str) -> None:
    file = write_pipeline(
        "{gain: [microworld/arithmetic], keep: [microworld/copy], tax_since: base}",
        suite,
        "pre: sft, post: rlvr",
        "method: soup, models: [sft, rlvr], greedy: true",
        "    gates: [arithmetic > sft.arithmetic]\n",
        "",
    )
    found = [problem.message for problem in check(load_pipeline(file, ())).problems]
    assert message in found


def test_a_suite_that_counts_no_tax_is_enough_for_a_greedy_soup(write_pipeline) -> None:
    file = write_pipeline(
        ", keep: [microworld/copy], tax_since: base",
        "",
        "pre: sft, post: rlvr",
        "method: soup, models: [sft, rlvr], greedy: true",
    )
    assert not check(load_pipeline(file, ())).problems


def test_greedy_is_part_of_what_a_stage_is(write_pipeline, tmp_path: Path) -> None:
    identities, written = [], []
    for keys in ("", ", greedy: true"):
        write_pipeline("pre: sft, post: rlvr", f"method: soup, models: [rlvr, sft]{keys}")
        loaded = load_pipeline("mine.yaml", ())
        folder = RunFolder(tmp_path / "runs" / "mine")
        planned = make_plan(loaded, build_graph(loaded.pipeline), folder)["average"]
        identities.append(planned.identity)
        written.append(planned.config()["greedy"])
    assert identities[0] != identities[1] and written == [False, True]


def test_models_of_different_starts_are_looked_at_before_anything_starts(
    write_pipeline: Callable[..., str], tmp_path: Path
) -> None:
    write_pipeline(
        "  blank: {kind: model, from_scratch: micro}\n",
        "  blank: {kind: model, from_scratch: micro}\n  other: {kind: model, path: ./other}\n",
        "pre: sft, post: rlvr",
        "method: ties, pre: base, models: [rlvr, other]",
    )
    loaded = load_pipeline("mine.yaml", ())
    plan = make_plan(loaded, build_graph(loaded.pipeline), RunFolder(tmp_path / "runs" / "mine"))
    [request] = [each for each in preflight_requests(plan) if each.kind == "average"]
    assert [stage for stage, _ in request.averaged] == ["rlvr", "other"]
    assert [origin.from_scratch for _, origin in request.averaged] == ["micro", None]


def test_models_of_one_start_need_no_look(write_pipeline, tmp_path: Path) -> None:
    loaded = load_pipeline(write_pipeline(), ())
    plan = make_plan(loaded, build_graph(loaded.pipeline), RunFolder(tmp_path / "runs" / "mine"))
    assert not [each for each in preflight_requests(plan) if each.kind == "average"]


def test_a_sweep_is_written_down_with_the_questions_that_choose(
    write_pipeline: Callable[..., str], tmp_path: Path
) -> None:
    write_pipeline("pre: sft, post: rlvr", "pre: sft, post: rlvr, weight_pre: [0.1, 0.2]")
    loaded = load_pipeline("mine.yaml", ())
    plan = make_plan(loaded, build_graph(loaded.pipeline), RunFolder(tmp_path / "runs" / "mine"))
    config = plan["average"].config()
    assert config["weight_pre"] == [0.1, 0.2]
    assert config["suite"]["gain"] == ["microworld/arithmetic"]
    assert config["suite"]["tax_since"] == "base"


def test_a_merged_model_descends_from_its_first(
    write_pipeline: Callable[..., str], tmp_path: Path
) -> None:
    write_pipeline("pre: sft, post: rlvr", "method: soup, models: [rlvr, sft]")
    loaded = load_pipeline("mine.yaml", ())
    plan = make_plan(loaded, build_graph(loaded.pipeline), RunFolder(tmp_path / "runs" / "mine"))
    origin = origin_of(plan, plan["average"].stage)
    assert origin is not None and origin.from_scratch == "micro"


def test_each_has_an_explanation() -> None:
    for code in ("no-answers", "quantized-weights", "shapes-differ", "other-tokenizer"):
        assert len(EXPLANATIONS[code]) > 50
