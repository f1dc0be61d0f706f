"""Settings of `online_rl` stages that `check` refuses because they could not mean anything."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from posttrain.cli.explanations import EXPLANATIONS
from posttrain.config.load import load_pipeline
from posttrain.pipeline.check import check

PLACE = "mine.yaml:15 stages.rlvr."
NO_WEIGHTS = "with `proximal: behaviour` no token is weighed"


@pytest.fixture
def problems_of(write_pipeline: Callable[..., str]) -> Callable[[str], list[str]]:
    """Of the sound pipeline, with keys added to its `rlvr` stage on line 15."""

    def find(keys: str) -> list[str]:
        file = write_pipeline("    steps: 60\n", f"    {keys}\n    steps: 60\n")
        return [problem.render() for problem in check(load_pipeline(file, ())).problems]

    return find


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (
            "off_policy: {high: 2.0, weights: mask}",
            [
                f"error[unused-setting] {PLACE}off_policy.weights: `weights` would do nothing: "
                f"{NO_WEIGHTS}\n  help: proximal: recompute, or interpolate; or leave `weights` "
                "out",
                f"error[unused-setting] {PLACE}off_policy.high: `high` would do nothing: "
                f"{NO_WEIGHTS}\n  help: proximal: recompute, or interpolate; or leave `high` out",
            ],
        ),
        (
            "off_policy: {proximal: behaviour, level: sequence}",
            [
                f"error[unused-setting] {PLACE}off_policy.level: `level` would do nothing: "
                f"{NO_WEIGHTS}\n  help: proximal: recompute, or interpolate; or leave `level` out"
            ],
        ),
        (
            "off_policy: {proximal: recompute, low: 0.5}",
            [
                f"error[unused-setting] {PLACE}off_policy.low: `low` would do nothing: `weights: "
                "cap` bounds weights from above only\n"
                "  help: weights: mask, or clamp; or leave `low` out"
            ],
        ),
        (
            "off_policy: {proximal: recompute, weights: clamp, low: 2, high: 2}",
            [
                f"error[bad-value] {PLACE}off_policy.low: `low` is 2 and `high` 2: no weight lies "
                "between them\n  help: low below 1 and high above 1: a fresh token weighs 1"
            ],
        ),
        (
            "off_policy: {proximal: interpolate}\n    staleness: 0",
            [
                f"error[nothing-to-interpolate] {PLACE}off_policy.proximal: with `staleness: 0` "
                "every token is sampled by the weights right before its step\n"
                "  help: proximal: behaviour or recompute; or staleness: 1 or more"
            ],
        ),
    ],
)
def test_off_policy(problems_of, keys: str, expected: list[str]) -> None:
    assert problems_of(keys) == expected


@pytest.mark.parametrize(
    "keys",
    [
        "off_policy: {proximal: behaviour}",
        "off_policy: {proximal: recompute, high: 2.0}",
        "off_policy: {proximal: interpolate, weights: clamp, high: 2.0, level: sequence}",
        "off_policy: {proximal: recompute, weights: mask, low: 0.5, high: 2.0}",
        "resources: {trainers: 4}",
    ],
)
def test_what_means_something_is_accepted(problems_of, keys: str) -> None:
    assert problems_of(keys) == []


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["stages.rlvr.batch.optimiser_steps=33"],
            "error[too-many-optimiser-steps] command line stages.rlvr.batch.optimiser_steps: 33 "
            "optimiser steps, but a batch has 32 groups, which are never split\n"
            "  help: optimiser_steps: 32 or less, or more `batch.prompts`",
        ),
        (
            ["stages.rlvr.batch.optimiser_steps=20", "stages.rlvr.resources.trainers=9"],
            # 32 groups in 20 parts: some have one, of 8 rollouts
            "error[batch-too-small] mine.yaml:14 stages.rlvr.batch.prompts: 9 trainers, but an "
            "optimiser step has 8 rollouts\n  help: a larger batch, or fewer trainers",
        ),
    ],
)
def test_optimiser_steps(write_pipeline, overrides: list[str], expected: str) -> None:
    report = check(load_pipeline(write_pipeline(), overrides))
    assert [problem.render() for problem in report.problems] == [expected]


def test_optimiser_steps_that_leave_each_a_group_are_accepted(write_pipeline) -> None:
    loaded = load_pipeline(write_pipeline(), ["stages.rlvr.batch.optimiser_steps=32"])
    assert check(loaded).problems == ()


@pytest.mark.parametrize(
    "code",
    [
        "unused-setting",
        "nothing-to-interpolate",
        "too-many-optimiser-steps",
        "batch-too-small",
        "offload-spread",
        "unknown-layer",
        "rank-too-large",
    ],
)
def test_each_has_an_explanation(code: str) -> None:
    assert len(EXPLANATIONS[code]) > 50


def test_optimiser_steps_are_said_in_words(write_pipeline) -> None:
    loaded = load_pipeline(write_pipeline(), ["stages.rlvr.batch.optimiser_steps=4"])
    [note] = [note for note in check(loaded).notes if note.startswith("rlvr")]
    assert note.startswith(
        "rlvr: 32 prompts × 8 samples = 256 rollouts = 1 step of 4 optimiser steps = 1 new weight "
        "version; "
    )


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("lora: {rank: 8, targets: all-linear}", []),
        ("lora: {}\n    reference: offload", ["unused-setting"]),
        ("lora: {}\n    reference: keep", ["unused-setting"]),
        ("reference: offload", []),
        ("reference: disk", ["bad-value"]),
        ("lora: {rank: 0}", ["bad-value"]),
        ("lora: {dropout: 0.1}", ["unknown-key"]),
        ("lora: {targets: []}", ["bad-value"]),
        ("lora: {targets: [all-linear, q_proj]}", ["bad-value"]),
    ],
)
def test_adapters_and_the_reference(problems_of, keys: str, expected: list[str]) -> None:
    found = problems_of(keys)
    assert [each.partition("]")[0].partition("[")[2] for each in found] == expected


def test_a_reference_that_is_spread_over_gpus_is_not_offloaded(write_pipeline) -> None:
    overrides = ["stages.rlvr.reference=offload", "stages.rlvr.resources.trainers=2"]
    # without GPUs every rank maps the same file
    assert check(load_pipeline(write_pipeline(), overrides)).problems == ()
    loaded = load_pipeline(write_pipeline(), [*overrides, "cluster.gpus_per_trainer=1"])
    [problem] = check(loaded).problems
    assert problem.code == "offload-spread"
    assert problem.message == "`offload` moves a whole model to each of 2 trainers' GPUs"
    assert problem.help == "reference: keep (each GPU holds 1/2 of it), or `lora`"
