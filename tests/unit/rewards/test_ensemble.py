"""Reward models as a reward: the paper's combinations, and what breaks an answer."""

import pytest
from posttrain.rewards import ensemble, request

from posttrain.errors import RewardBroken
from posttrain.types import MEMBERS_STD, SCORES_COLUMN, scores_key

AGREED = [1.0, 1.2, 0.8, 1.1, 0.9]  # variance .02
DIFFERING = [2.0, 1.8, 0.2, 2.2, 1.3]  # variance .512


def score(members, **settings):
    row = {SCORES_COLUMN: {"rm": members}}
    return ensemble.score(row, "an answer", ensemble.Config(ensemble="rm", **settings))


@pytest.mark.parametrize(
    ("settings", "agreed", "differing"),
    [
        ({"combine": "mean"}, 1.0, 1.5),
        ({"combine": "wco"}, 0.8, 0.2),
        ({}, 0.99, 1.244),  # uwo of .5
        ({"uwo_weight": 0.1}, 0.998, 1.4488),
    ],
)
def test_worked_numbers(settings, agreed, differing):
    assert score(AGREED, **settings).value == pytest.approx(agreed)
    assert score(DIFFERING, **settings).value == pytest.approx(differing)


def test_fused_scores_stand_under_a_key_of_their_own():
    row = {SCORES_COLUMN: {"rm": [9.0], scores_key("rm", 5): AGREED}}
    config = ensemble.Config(ensemble="rm", combine="mean", fuse=5)
    assert ensemble.score(row, "an answer", config).value == pytest.approx(1.0)
    assert ensemble.fused_scores(config) == [("rm", 5)]
    assert ensemble.fused_scores(ensemble.Config(ensemble="rm")) == []
    assert ensemble.gold(config)[0].row == {SCORES_COLUMN: {"rm, fuse 5": [1.0, 1.0, 1.0]}}


def test_what_is_not_asked_for_is_not_told():
    """Identities count all settings: those of stages without fusion stay what they were."""
    assert "fuse" not in ensemble.Config(ensemble="rm").model_dump(mode="json")
    assert ensemble.Config(ensemble="rm", fuse=5).model_dump(mode="json")["fuse"] == 5


def test_how_far_members_differ_is_told():
    assert score(DIFFERING).parts == {MEMBERS_STD: pytest.approx(0.512**0.5)}
    assert score([3.0]).parts == {MEMBERS_STD: 0.0} and score([3.0]).value == 3.0
    assert score(AGREED).passed is None  # right and wrong mean nothing here


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_breaks_the_answer(value):
    with pytest.raises(RewardBroken, match="member 1 of `rm` scores"):
        score([0.0, value])


def test_a_row_without_scores_breaks_the_answer():
    config = ensemble.Config(ensemble="rm")
    for row in ({}, {SCORES_COLUMN: {"other": [1.0]}}):
        with pytest.raises(RewardBroken, match="no scores of `rm`"):
            ensemble.score(row, "an answer", config)


def test_the_gold_reward_reads_requests_only():
    config = request.Config()
    assert request.score({"prompt": "write ceg="}, "ceg", config).value == pytest.approx(0.84375)
    with pytest.raises(RewardBroken, match="no request"):
        request.score({"prompt": "copy abc="}, "abc", config)
