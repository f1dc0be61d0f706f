"""Rewards that are made of others: gates, sums, one per source."""

import asyncio

import pytest

from posttrain.config.pipeline import RewardSpec
from posttrain.config.plugin import nested_plugins
from posttrain.config.plugins import complete_settings, labelled, load_plugin, plugin_config
from posttrain.errors import InputError, RewardBroken
from posttrain.reward.worker import RewardPool

SHORT = """
import asyncio
from posttrain.config.strict import StrictModel
from posttrain.types import Score

class Config(StrictModel):
    high: int = 5

def gold(config): return []
def bad(config): return []

async def score(row, completion, config):
    await asyncio.sleep(0.01)
    if completion == "raise":
        raise ValueError("no idea")
    short = len(completion) <= config.high
    return Score(1.0 if short else 0.25, reason="" if short else f"{len(completion)} characters")
"""


@pytest.fixture
def short(tmp_path):
    path = tmp_path / "short.py"
    path.write_text(SHORT)
    return str(path)


def score(spec, row, completion):
    reward = RewardSpec.model_validate(spec)
    module = load_plugin("reward", reward.name)
    config = plugin_config(module, reward.settings)
    return asyncio.run(module.score(row, completion, config))


def test_a_gate_pays_the_score_only_where_every_judge_is_satisfied(short):
    spec = {"combine": "gated", "score": "arithmetic", "judges": {"short": short}}
    right = score(spec, {"answer": "7"}, "7")
    assert (right.value, right.passed, right.parts) == (1.0, True, {"judge/short": 1.0})
    gated = score(spec, {"answer": "7"}, "so it is 7")
    assert (gated.value, gated.passed, gated.parts) == (0.0, False, {"judge/short": 0.0})
    assert gated.reason == "violates short: 10 characters"
    wrong = score(spec, {"answer": "7"}, "8")
    assert (wrong.value, wrong.passed) == (0.0, False)


def test_a_sum_weighs_its_parts_and_passes_where_all_with_an_opinion_do(short):
    spec = {
        "combine": "weighted",
        "parts": {
            "correct": {"reward": "arithmetic", "weight": 2.0},
            "short": {"reward": {"name": short, "high": 3}, "weight": -0.5},
        },
    }
    found = score(spec, {"answer": "7"}, "it: 7")
    assert found.value == pytest.approx(2.0 - 0.5 * 0.25)
    assert (found.passed, found.parts) == (True, {"correct": 1.0, "short": 0.25})


def test_each_source_has_its_own_reward_and_one_without_is_broken(short):
    spec = {"per_source": {"sums": "arithmetic", "copies": {"name": "skill"}}}
    assert score(spec, {"source": "sums", "answer": "7"}, "= 7").value == 1.0
    assert score(spec, {"source": "copies", "answer": "7"}, "= 7").value == 0.0
    with pytest.raises(RewardBroken, match="no reward for prompts whose `source` is 'other'"):
        score(spec, {"source": "other"}, "7")


def test_parts_may_be_combined_themselves_and_breakage_names_the_part(short):
    spec = {"per_source": {"a": {"combine": "gated", "score": "skill", "judges": {"s": short}}}}
    assert score(spec, {"source": "a", "answer": "ab"}, "ab").value == 1.0
    with pytest.raises(RewardBroken, match=r"gated: .*short.py: score\(\) raised ValueError"):
        score(spec, {"source": "a", "answer": "ab"}, "raise")


def test_settings_of_parts_are_complete_and_their_files_count_by_content(short, tmp_path):
    spec = RewardSpec.model_validate({"combine": "gated", "score": "gsm8k", "judges": {"s": short}})
    settings = complete_settings("reward", spec, tmp_path)
    assert settings["judges"]["s"] == {
        "reward": {"name": short, "settings": {"high": 5}},
        "at_least": 1.0,
    }
    before = labelled(settings)["judges"]["s"]["reward"]["name"]
    assert before.startswith("short@")
    (tmp_path / "short.py").write_text(SHORT + "\n# another\n")
    assert labelled(settings)["judges"]["s"]["reward"]["name"] != before


def test_a_mistake_in_a_part_is_placed_at_its_key(short):
    module = load_plugin("reward", "gated")
    config = plugin_config(module, {"score": "skill", "judges": {"s": {"name": short, "hihg": 3}}})
    (keys, part) = list(nested_plugins(config))[1]
    assert (keys, part.settings) == (("judges", "s", "reward"), {"hihg": 3})
    with pytest.raises(InputError, match="hihg"):
        complete_settings("reward", part, None)


def test_the_pool_scores_them_side_by_side_and_in_order(short):
    settings = {"score": "skill", "judges": {"s": {"name": short}}}
    with RewardPool("gated", settings, 5.0) as pool:
        outcomes = pool.score([{"answer": "ab"}] * 4, ["ab", "raise", "abcdefgh", "ba"])
    assert [getattr(each, "value", None) for each in outcomes] == [1.0, None, 0.0, 0.0]
    assert isinstance(outcomes[1], RewardBroken)
    assert outcomes[2].parts == {"judge/s": 0.0}
    assert outcomes[0].seconds > 0.005


SLOW = """
import time
from posttrain.config.strict import StrictModel
from posttrain.types import Score

class Config(StrictModel):
    pass

def gold(config): return []
def bad(config): return []

def score(row, completion, config):
    time.sleep(60 if completion == "block" else 0.1)
    return Score(1.0, passed=True)
"""


def test_a_judge_without_opinion_is_satisfied_from_a_value_on(short):
    rule = {"reward": short, "at_least": 0.25}
    spec = {"combine": "gated", "score": "skill", "judges": {"s": rule}}
    assert score(spec, {"answer": "abcdefgh"}, "abcdefgh").value == 1.0


def test_parts_that_compute_are_one_answer_at_a_time_and_blamed_alone(tmp_path):
    """Forty answers of .1 s, with a limit of 1 s for each: none waits for the others in vain."""
    (tmp_path / "slow.py").write_text(SLOW)
    settings = {"score": "skill", "judges": {"slow": str(tmp_path / "slow.py")}}
    with RewardPool("gated", settings, 1.0) as pool:
        outcomes = pool.score([{"answer": "a"}] * 20, ["a"] * 12 + ["block"] + ["a"] * 7)
    assert [getattr(each, "value", None) for each in outcomes] == [1.0] * 12 + [None] + [1.0] * 7


def test_one_that_computes_for_ever_beside_one_that_waits_costs_the_others_nothing(short, tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    judges = {"s": {"reward": short, "at_least": 0.0}, "slow": str(tmp_path / "slow.py")}
    with RewardPool("gated", {"score": "skill", "judges": judges}, 1.0) as pool:
        outcomes = pool.score([{"answer": "a"}] * 20, ["a"] * 12 + ["block"] + ["a"] * 7)
    assert [getattr(each, "value", None) for each in outcomes] == [1.0] * 12 + [None] + [1.0] * 7
    assert "no score within 1 s" in outcomes[12].message
