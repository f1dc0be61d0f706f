"""What `check` says of stages that learn from comparisons, and of rewards that ensembles give."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain.cli.explanations import EXPLANATIONS
from posttrain.config.load import load_pipeline
from posttrain.pipeline.check import check
from posttrain.pipeline.graph import build_graph
from posttrain.pipeline.identity import UNCOUNTED
from posttrain.pipeline.plan import make_plan
from posttrain.pipeline.store import RunFolder

STAGES = """\
  rm: {kind: reward_model, model: sft, members: 3, data: microworld/preferences, steps: 9}
  dpo: {kind: preference, model: sft, algorithm: dpo, data: "${stages.rm.data}"}
  rlvr:
"""
OLD_REWARD = "    reward: arithmetic\n    data: microworld/arithmetic\n"
NEW_REWARD = "    reward: {ensemble: rm, combine: uwo}\n    data: microworld/requests\n"


@pytest.fixture
def pairs(rewritten: Callable[..., str]) -> Callable[..., str]:
    """`pairs(old, new, ...)`: the sound pipeline with an ensemble as reward, then changed."""
    return functools.partial(rewritten, ("  rlvr:\n", STAGES, OLD_REWARD, NEW_REWARD))


def report_of(file: str, *overrides: str):
    return check(load_pipeline(file, overrides))


def rendered(file: str, *overrides: str) -> list[str]:
    return [problem.render() for problem in report_of(file, *overrides).problems]


def test_a_sound_one_checks_clean_and_says_its_arithmetic(pairs):
    report = report_of(pairs())
    assert [problem.render() for problem in report.problems] == []
    assert report.graph.needs["rlvr"] == ("sft", "rm")
    assert [note for note in report.notes if note.startswith(("rm", "dpo"))] == [
        "rm: 64 pairs = 1 step; 9 steps = 576 pairs; 3 members, each so",
        # a fifth of 4,000 at most
        "dpo: 64 pairs = 1 step; 3 936 pairs (64 held out) × 1 epoch = 62 steps",
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "{ensemble: rm, combine: uwo}",
            "{ensemble: sft, combine: uwo}",
            "stages.rlvr.reward.ensemble: needs reward models, `sft` (line 7) makes a model\n  "
            "help: stages that make reward models: rm",
        ),
        (
            "{ensemble: rm, combine: uwo}",
            "{ensemble: rmm}",
            "stages.rlvr.reward.ensemble: no stage `rmm`\n  help: did you mean `rm`?",
        ),
        (
            "model: sft, algorithm: dpo",
            "model: rm, algorithm: dpo",
            "stages.dpo.model: needs a model, `rm` (line 8) makes reward models\n  help: stages "
            "that make a model: blank, base, sft, dpo, rlvr, average",
        ),
        (
            "algorithm: dpo,",
            "algorithm: reward_model,",
            "stages.dpo.algorithm: `reward_model` is an algorithm for reward_model stages, this is "
            "a preference stage\n  help: for preference stages: cdpo, dno, dpo, dpo_norm, ipo, "
            "kto, orpo, robust_dpo, simpo, srpo",
        ),
        (
            "combine: uwo",
            "combine: uow",
            "stages.rlvr.reward.combine: is uow, has to be one of mean, wco, uwo\n  help: did you "
            "mean `uwo`?",
        ),
        (
            "members: 3, data: microworld/preferences",
            "members: 3, data: microworld/arithmetic",
            "stages.rm.data.path: `microworld/arithmetic` has prompt, task, answer; needs chosen, "
            "rejected\n  help: sources that have them: microworld/preferences",
        ),
    ],
)
def test_mistakes_name_place_and_cure(pairs, old, new, expected):
    lines = rendered(pairs(old, new))
    assert any(expected in line for line in lines), lines


def test_an_ensemble_can_be_watched_and_be_a_part(pairs):
    parts = "{combine: weighted, parts: {a: {reward: {ensemble: rm}}, b: {reward: request}}}"
    file = pairs("{ensemble: rm, combine: uwo}", parts)
    assert rendered(file) == []
    file = pairs(
        "    reward: {ensemble: rm, combine: uwo}\n",
        "    reward: request\n    watch: {ensemble: rm}\n",
    )
    assert rendered(file) == []
    assert report_of(file).graph.needs["rlvr"] == ("sft", "rm")


def test_an_ensemble_may_be_calibrated_behind_judges(pairs):
    calibrated = "{name: calibrated, score: {ensemble: rm, combine: mean}}"
    judges = "{short: {name: length, high: 20}}"
    gated = f"{{combine: gated, score: {calibrated}, judges: {judges}}}"
    rule = "{name: codpo, lr: 3e-4, beta: 0.2}"
    file = pairs("{ensemble: rm, combine: uwo}", gated, "{name: grpo, lr: 3e-4}", rule)
    assert rendered(file) == []
    assert report_of(file).graph.needs["rlvr"] == ("sft", "rm")
    (line,) = rendered(pairs("{ensemble: rm, combine: uwo}", "{name: calibrated}"))
    assert "stages.rlvr.reward" in line and "score" in line


def test_a_critic_may_start_from_reward_models(pairs):
    file = pairs("{name: grpo, lr: 3e-4}", "{name: ppo, lr: 3e-4, critic: rm}")
    assert rendered(file) == []


def test_a_stop_without_an_ensemble_is_told(pairs):
    keys = "    reward: request\n    stop_at_members_std: 1.5\n"
    lines = rendered(pairs("    reward: {ensemble: rm, combine: uwo}\n", keys))
    assert len(lines) == 1 and "no ensemble of reward models is in the reward" in lines[0]


def test_a_suite_has_no_reward_models(pairs):
    task = "{data: microworld/requests, reward: {ensemble: rm}}"
    suite = f"abilities: {{gain: [mine], tasks: {{mine: {task}}},"
    lines = rendered(pairs("abilities: {gain: [microworld/arithmetic],", suite))
    assert any("a suite has no reward models" in line for line in lines)


def test_an_ensembles_identity_is_in_that_of_the_stage_it_rewards(pairs, tmp_path):
    def plan(*overrides):
        loaded = load_pipeline(pairs(), overrides)
        return make_plan(loaded, build_graph(loaded.pipeline), RunFolder(tmp_path / "runs"))

    one, two = plan(), plan("stages.rm.members=4")
    assert one["rlvr"].identity != two["rlvr"].identity
    assert one["dpo"].identity == two["dpo"].identity
    assert "watch" in UNCOUNTED


def test_an_option_of_later_changes_no_identity_where_it_is_not_given(pairs, tmp_path):
    def plan(*overrides):
        loaded = load_pipeline(pairs(), overrides)
        return make_plan(loaded, build_graph(loaded.pipeline), RunFolder(tmp_path / "runs"))

    planned = plan()
    assert "augment" not in planned["rm"].stage.model_dump(mode="json")
    assert plan("stages.rm.augment={}")["rm"].identity != planned["rm"].identity
    assert plan("stages.rm.augment=null")["rm"].identity == planned["rm"].identity
    noisy, usual = plan("stages.rm.augment={noise: 0.2}"), plan("stages.rm.augment={}")
    assert noisy["rm"].identity != usual["rm"].identity


def test_variants_of_prompts_are_in_the_arithmetic(pairs):
    file = pairs("microworld/preferences, steps: 9", "microworld/preferences, augment: {}")
    (note,) = [note for note in report_of(file).notes if note.startswith("rm")]
    assert note.endswith("= 59 steps, and 5 variants of each at most; 3 members, each so")


def test_judged_answers_need_their_own_columns(pairs, tmp_path):
    of_pairs = 'algorithm: dpo, data: "${stages.rm.data}"'
    judged = "algorithm: {name: kto, rows: judged}"
    lines = rendered(pairs(of_pairs, f'{judged}, data: "${{stages.rm.data}}"'))
    assert len(lines) == 1 and "needs prompt, completion, label" in lines[0]
    rows = [{"prompt": "a", "completion": "b", "label": number < 3} for number in range(20)]
    file = tmp_path / "thumbs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = report_of(pairs(of_pairs, f"{judged}, data: {file}"))
    assert [problem.render() for problem in report.problems] == []
    (note,) = [note for note in report.notes if note.startswith("dpo")]
    assert note == "dpo: 64 rows = 1 step; 16 rows (4 held out) × 1 epoch = 1 step"


def test_conversations_are_comparisons_too(pairs):
    row = {
        "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
        "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}],
    }
    Path("pairs.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({**row, "rejected": 3}))
    lines = rendered(pairs("data: microworld/preferences", "data: pairs.jsonl"))
    assert "error[bad-row] pairs.jsonl:2 (stage rm): `rejected` is the number 3" in lines[0]


def test_the_codes_are_explained():
    assert {"no-reward-model", "other-tokenizer", "wrong-algorithm"} <= EXPLANATIONS.keys()
