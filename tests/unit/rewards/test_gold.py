import pytest

from posttrain.config.plugins import load_plugin, shipped
from posttrain.errors import RewardBroken
from posttrain.reward.protocol import failed_gold


@pytest.mark.parametrize("name", shipped("reward"))
def test_every_reward_scores_its_gold_examples(name):
    reward = load_plugin("reward", name)
    config = reward.Config()
    examples = reward.gold(config) and reward.bad(config)
    assert examples or hasattr(reward, "ready"), "have a right and a wrong example"
    assert failed_gold(reward, config) == []


def test_the_first_rewards_are_there():
    assert {"arithmetic", "gsm8k", "skill"} <= set(shipped("reward"))


def test_gsm8k_says_what_it_expected_and_found():
    gsm8k = load_plugin("reward", "gsm8k")
    score = gsm8k.score({"answer": "#### 72"}, "so 71", gsm8k.Config())
    assert (score.value, score.reason) == (0.0, "expected 72, found 71")


def test_gsm8k_refuses_a_row_without_a_number():
    gsm8k = load_plugin("reward", "gsm8k")
    with pytest.raises(RewardBroken, match="ends in 'seventy', not in a number"):
        gsm8k.score({"answer": "#### seventy"}, "72", gsm8k.Config())
