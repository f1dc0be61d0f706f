from pathlib import Path

import pytest
from reward_examples import LEAST_SETTINGS, failed_gold

from posttrain.config.pipeline import RewardSpec
from posttrain.config.plugins import load_plugin, shipped
from posttrain.errors import NoSandbox, RewardBroken

MADE_OF_OTHERS = ("calibrated", "gated", "per_source", "weighted")  # their parts prove themselves


def has_examples(name):
    """Not those that ask a model, which may be wrong on anything."""
    return not hasattr(load_plugin("reward", name), "ready")


@pytest.mark.parametrize("name", shipped("reward"))
def test_every_reward_scores_its_gold_examples(name):
    reward = load_plugin("reward", name)
    config = reward.Config(**LEAST_SETTINGS.get(name, {}))
    if name not in MADE_OF_OTHERS and has_examples(name):
        assert reward.gold(config) and reward.bad(config), "have a right and a wrong example"
    try:
        failed = failed_gold(reward, config)
    except NoSandbox as missing:
        pytest.skip(missing.message)
    assert failed == []


def test_the_docs_list_every_reward():
    page = (Path(__file__).parents[3] / "docs" / "rewards.md").read_text()
    assert [name for name in shipped("reward") if f"`{name}`" not in page] == []


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


@pytest.mark.parametrize("name", shipped("reward"))
def test_no_setting_is_taken_by_a_key_of_the_stage_s_own(name):
    """Both stand beside the reward's name: `reward: {name: code, timeout_s: 5, ...}`."""
    config = load_plugin("reward", name).Config
    assert set(RewardSpec.model_fields) & set(config.model_fields) == set()
