import pytest

from posttrain.config.plugins import load_plugin, shipped
from posttrain.errors import RewardBroken
from posttrain.reward.protocol import failed_gold


@pytest.mark.parametrize("name", shipped("reward"))
def test_every_reward_scores_its_gold_examples(name):
    reward = load_plugin("reward", name)
    values = [example.value for example in reward.GOLD]
    assert max(values) == 1.0 and min(values) < 1.0, "have a right and a wrong example"
    assert failed_gold(reward, reward.Config()) == []


def test_the_first_rewards_are_there():
    assert {"arithmetic", "gsm8k", "skill"} <= set(shipped("reward"))


def test_gsm8k_takes_the_value_of_a_right_answer():
    gsm8k = load_plugin("reward", "gsm8k")
    config = gsm8k.Config(value_right=10.0)
    assert gsm8k.score({"answer": "#### 72"}, "72", config).value == 10.0
    assert gsm8k.score({"answer": "#### 72"}, "71", config).value == 0.0


def test_gsm8k_refuses_a_row_without_a_number():
    gsm8k = load_plugin("reward", "gsm8k")
    with pytest.raises(RewardBroken, match="ends in 'seventy', not in a number"):
        gsm8k.score({"answer": "#### seventy"}, "72", gsm8k.Config())
