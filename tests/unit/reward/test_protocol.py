from types import ModuleType

import pytest
from reward_examples import failed_gold

from posttrain.config.strict import StrictModel
from posttrain.errors import RewardBroken
from posttrain.reward.protocol import Example, checked, score_one
from posttrain.types import Score


def test_numbers_become_scores():
    assert checked(Score(1, True, {"format": 0})) == Score(1.0, True, {"format": 0.0})
    assert checked(0.5) == Score(0.5)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, "score() returned NoneType, not a Score"),
        ("1.0", "score() returned str, not a Score"),
        (float("nan"), "score() returned nan as value, not a finite number"),
        (Score(float("inf")), "score() returned inf as value, not a finite number"),
        (Score("1"), "score() returned '1' as value, not a finite number"),
        (Score(1.0, parts={"x": None}), "score() returned None as part `x`, not a finite number"),
    ],
)
def test_nonsense_is_broken_and_not_zero(result, message):
    with pytest.raises(RewardBroken) as raised:
        checked(result)
    assert raised.value.message == message


def test_gold_examples_that_do_not_score_as_they_say_are_named():
    reward = ModuleType("half")
    reward.score = lambda row, completion, config: Score(0.5)
    reward.gold = lambda config: [Example({}, "right")]
    reward.bad = lambda config: [Example({}, "wrong")]
    assert failed_gold(reward, StrictModel()) == ["'right' scored 0.5, not 1"]
    reward.score = lambda row, completion, config: Score(1.0)
    assert failed_gold(reward, StrictModel()) == ["'wrong' scored 1, has to score less"]


def test_async_and_batched_rewards_are_scored_alike():
    async def later(row, completion, config):
        return Score(0.25)

    slow, batched = ModuleType("slow"), ModuleType("batched")
    slow.score = later
    batched.score_many = lambda rows, completions, config: [Score(len(c)) for c in completions]
    assert score_one(slow, Example({}, "x"), StrictModel()) == Score(0.25)
    assert score_one(batched, Example({}, "abc"), StrictModel()) == Score(3.0)
