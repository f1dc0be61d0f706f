"""The calibrated reward: how likely an answer beats the row's own."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.config.pipeline import RewardSpec
from posttrain.config.plugins import (
    baseline_columns,
    load_plugin,
    plugin_config,
    reward_stages,
)
from posttrain.errors import RewardBroken
from posttrain.reward.parts import num_parts
from posttrain.reward.worker import RewardPool
from posttrain.types import BASELINE_SCORES_COLUMN, MEMBERS_STD, SCORES_COLUMN

SPEC = {"name": "calibrated", "score": {"ensemble": "rm", "combine": "mean"}}
GATED = {"combine": "gated", "score": SPEC, "judges": {"short": {"name": "length", "high": 5}}}


def of(spec):
    reward = RewardSpec.model_validate(spec)
    module = load_plugin("reward", reward.name)
    return module, plugin_config(module, reward.settings)


def score(spec, row, completion):
    module, config = of(spec)
    return asyncio.run(module.score(row, completion, config))


def scored_row(ours, theirs, column="completion"):
    """A row as rewards read it where reward models score."""
    return {
        "prompt": "7+5=",
        column: "12",
        SCORES_COLUMN: {"rm": ours},
        BASELINE_SCORES_COLUMN: {column: {"rm": theirs}},
    }


def test_the_worked_example():
    # sigmoid(1.5 - 0.5), of the members' means
    found = score(SPEC, scored_row([1.4, 1.6], [0.5, 0.5]), "twelve")
    assert found.value == pytest.approx(0.731059, abs=1e-6)
    assert found.parts == pytest.approx({MEMBERS_STD: 0.1, "baseline_margin": 1.0})
    assert found.passed is None  # a reward model has no opinion of right and wrong


def test_behind_judges_a_violation_earns_nothing():
    row = scored_row([1.5], [0.5])
    assert score(GATED, row, "12").value == pytest.approx(0.731059, abs=1e-6)
    assert score(GATED, row, "12").parts["judge/short"] == 1.0
    long = score(GATED, row, "one two three four five six seven eight nine ten")
    assert (long.value, long.passed, long.parts["judge/short"]) == (0.0, False, 0.0)


def test_as_good_as_the_row_s_own_answer_is_a_half_and_extremes_are_numbers():
    assert score(SPEC, scored_row([0.3], [0.3]), "an answer").value == 0.5
    assert score(SPEC, scored_row([900.0], [-900.0]), "an answer").value == 1.0
    assert score(SPEC, scored_row([-900.0], [900.0]), "an answer").value == 0.0


@given(st.floats(-30, 30), st.floats(-30, 30))
def test_what_one_wins_the_other_loses(ours, theirs):
    won = score(SPEC, scored_row([ours], [theirs]), "a").value
    lost = score(SPEC, scored_row([theirs], [ours]), "a").value
    assert 0.0 <= won <= 1.0 and won + lost == pytest.approx(1.0)


def test_a_verifier_may_be_calibrated_too_with_another_column():
    spec = {"name": "calibrated", "score": "arithmetic", "baseline_column": "draft"}
    row = {"answer": "12", "draft": "13"}
    found = score(spec, row, "12")
    assert (found.value, found.passed) == (pytest.approx(0.731059, abs=1e-6), True)
    assert score(spec, {**row, "draft": "12"}, "13").value == pytest.approx(0.268941, abs=1e-6)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "?"}, "the row has no column `completion`; it has `prompt`"),
        ({"completion": " "}, "the row's `completion` is blank"),
        ({"completion": 12}, "the row's `completion` is 12, not a text"),
    ],
)
def test_a_row_without_an_answer_of_its_own_breaks(row, said):
    with pytest.raises(RewardBroken) as raised:
        score(SPEC, {**row, SCORES_COLUMN: {"rm": [1.0]}}, "12")
    assert said == raised.value.message


def test_a_baseline_that_no_reward_model_scored_breaks():
    row = {"completion": "12", SCORES_COLUMN: {"rm": [1.0]}}
    with pytest.raises(RewardBroken, match="ensemble: there are no scores of `rm`"):
        score(SPEC, row, "12")


def test_columns_and_stages_are_found_wherever_it_stands():
    other = {**SPEC, "baseline_column": "draft"}
    parts = {"a": {"reward": GATED}, "b": {"reward": other}, "c": {"reward": SPEC}}
    spec = RewardSpec.model_validate({"combine": "weighted", "parts": parts})
    assert baseline_columns(spec) == ["completion", "draft"]
    assert [each.stage for each in reward_stages(spec)] == ["rm", "rm", "rm"]
    assert baseline_columns(RewardSpec.model_validate("gsm8k")) == []
    broken = RewardSpec.model_validate({"name": "calibrated"})  # `check` says what is wrong
    assert baseline_columns(broken) == []


def test_both_answers_count_in_the_time_limit():
    assert num_parts(*of(SPEC)) == 2
    assert num_parts(*of(GATED)) == 3
    assert num_parts(*of("gsm8k")) == 1


def test_the_pool_scores_it():
    with RewardPool("gated", {key: GATED[key] for key in ("score", "judges")}, 5.0) as pool:
        rows = [scored_row([1.5], [0.5]), {"prompt": "?"}]
        good, broken = pool.score(rows, ["12", "12"])
    assert good.value == pytest.approx(0.731059, abs=1e-6)
    assert isinstance(broken, RewardBroken)
    assert broken.message == "calibrated: the row has no column `completion`; it has `prompt`"
