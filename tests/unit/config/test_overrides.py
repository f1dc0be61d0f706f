"""Dotted overrides: what they set, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from posttrain.config.load import load_pipeline
from posttrain.config.offline import SftStage
from posttrain.config.pipeline import EvaluateStage, OnlineRlStage

Write = Callable[..., str]


def test_overrides_reach_every_depth(write_pipeline: Write) -> None:
    loaded = load_pipeline(
        write_pipeline(),
        [
            "seed=3",
            "stages.rlvr.algorithm.lr=1e-5",
            "stages.rlvr.algorithm.clip_high=0.28",
            "stages.rlvr.staleness=2",
            "stages.rlvr.reward.timeout_s=9",
            "stages.sft.data.too_long=drop",
            "stages.sft.algorithm.lr=1e-3",
            "stages.final.suite.prompts_per_task=16",
            "stages.final.models=[base, rlvr]",
            "stages.rlvr.gates.0=arithmetic > 50",
            "cluster.engines=2",
            "wandb.mode=disabled",
        ],
    )
    assert loaded.problems == ()
    pipeline = loaded.pipeline
    rlvr, sft, final = (pipeline.stages[name] for name in ("rlvr", "sft", "final"))
    assert isinstance(rlvr, OnlineRlStage)
    assert isinstance(sft, SftStage)
    assert isinstance(final, EvaluateStage)
    assert pipeline.seed == 3
    assert rlvr.algorithm.settings == {"lr": 1e-5, "clip_high": 0.28}
    assert (rlvr.staleness.max, rlvr.reward.timeout_s) == (2, 9.0)
    assert rlvr.gates == ["arithmetic > 50"]
    assert (sft.data.path, sft.data.too_long) == ("microworld/arithmetic_worked", "drop")
    assert sft.algorithm.settings == {"lr": 1e-3}
    assert (final.suite.use, final.suite.prompts_per_task) == ("abilities", 16)
    assert final.models == ["base", "rlvr"]
    assert loaded.cluster.engines == 2
    assert pipeline.wandb.mode == "disabled"
    assert loaded.origins["stages.rlvr.algorithm.lr"] == ("command line", None)


def test_presets_can_be_overridden_by_name(write_pipeline: Write) -> None:
    loaded = load_pipeline(write_pipeline(), ["cluster=laptop", "stages.sft.uses=sft/small"])
    assert loaded.problems == ()
    assert loaded.raw["stages"]["sft"]["algorithm"]["schedule"] == "cosine"


def test_steps_take_the_place_of_epochs(write_pipeline: Write) -> None:
    """The preset sft/small says `epochs: 1`; the file, then the command line, say `steps`."""
    file = write_pipeline("{kind: sft, model: base,", "{kind: sft, uses: sft/small, model: base,")
    assert "epochs" not in load_pipeline(file).raw["stages"]["sft"]
    stage = load_pipeline(file, ["stages.sft.epochs=2"]).pipeline.stages["sft"]
    assert isinstance(stage, SftStage)
    assert (stage.steps, stage.epochs) == (None, 2)


def test_another_algorithm_takes_no_settings_with_it(write_pipeline: Write) -> None:
    raw = load_pipeline(write_pipeline(), ["stages.rlvr.algorithm=grpo"]).raw
    assert raw["stages"]["rlvr"]["algorithm"] == {"name": "grpo"}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "stages.rlvr.lr=1e-5",
            "error[override-path] command line: `stages.rlvr.lr=1e-5` sets nothing\n"
            "  help: did you mean `stages.rlvr.algorithm.lr=1e-5`? (now 3e-4, from mine.yaml:11)",
        ),
        (
            "stages.rlvvr.steps=3",
            "error[override-path] command line: `stages.rlvvr.steps=3` sets nothing: no stage "
            "`rlvvr`\n  help: did you mean `rlvr`?",
        ),
        (
            "stages.rlvr.algorithm.learning_rate=1",
            "error[override-path] command line: `stages.rlvr.algorithm.learning_rate=1` sets "
            "nothing",
        ),
        (
            "stages.rlvr.steps.x=1",
            "error[override-path] command line: `stages.rlvr.steps.x=1` sets nothing: "
            "`stages.rlvr.steps` is 60, without keys below it\n"
            "  help: override `stages.rlvr.steps` itself",
        ),
        (
            "stages.final.models.9=sft",
            "error[override-path] command line: `stages.final.models.9=sft` sets nothing: "
            "`stages.final.models` is a list of 4\n"
            "  help: override the whole list: key=[a,b]",
        ),
        (
            "sed=3",
            "error[override-path] command line: `sed=3` sets nothing\n"
            "  help: did you mean `seed=3`?",
        ),
        (
            "stages.rlvr.steps",
            "error[override-syntax] command line: `stages.rlvr.steps` is no override\n"
            "  help: write key=value, without spaces: stages.rlvr.steps=20",
        ),
        (
            "stages.final.models=[base,",
            "error[override-syntax] command line: `stages.final.models=[base,`: a value is missing "
            "inside brackets, or they are not closed\n"
            "  help: quote it for the shell: 'stages.final.models=[base, sft]'",
        ),
        (
            "stages.rlvr.steps=soon",
            "error[bad-value] command line stages.rlvr.steps: is soon, has to be a whole number",
        ),
    ],
)
def test_an_override_that_sets_nothing_is_refused(
    write_pipeline: Write, override: str, expected: str
) -> None:
    rendered = [
        problem.render() for problem in load_pipeline(write_pipeline(), [override]).problems
    ]
    assert len(rendered) == 1
    assert rendered[0] == expected or rendered[0].startswith(expected + "\n  help: did you mean")
