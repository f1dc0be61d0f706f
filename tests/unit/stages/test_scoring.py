import pytest

from posttrain.config.answers import ScoredReward
from posttrain.errors import RewardBroken
from posttrain.stages.scoring import RewardPools, scores_or_broken
from posttrain.types import Score


class Pool:
    def __init__(self, reward):
        self.asked, self.is_closed = (reward.name, reward.processes), False

    def close(self):
        self.is_closed = True


GSM8K = ScoredReward(name="gsm8k")


@pytest.fixture
def pools(monkeypatch):
    monkeypatch.setattr("posttrain.stages.scoring.reward_pool", Pool)
    return RewardPools()


def test_who_asks_for_the_same_reward_gets_the_same_process_until_the_end(pools):
    with pools.lend() as pool_of:
        first = pool_of(GSM8K)
        assert pool_of(ScoredReward(name="gsm8k")) is first
        other = pool_of(ScoredReward(name="gsm8k", processes=2))
    with pools.lend() as pool_of:
        assert pool_of(GSM8K) is first
    assert (first.asked, other.asked) == (("gsm8k", 1), ("gsm8k", 2))
    assert not first.is_closed and not other.is_closed
    pools.close()
    assert first.is_closed and other.is_closed


def test_two_who_ask_at_a_time_have_a_process_each(pools):
    with pools.lend() as mine, pools.lend() as theirs:
        assert mine(GSM8K) is not theirs(GSM8K)
        both = {mine(GSM8K), theirs(GSM8K)}
    with pools.lend() as mine, pools.lend() as theirs:
        assert {mine(GSM8K), theirs(GSM8K)} == both


def test_a_process_that_was_given_up_half_way_scores_for_nobody_else(pools):
    with pytest.raises(KeyboardInterrupt), pools.lend() as pool_of:
        given_up = pool_of(GSM8K)
        raise KeyboardInterrupt
    assert given_up.is_closed
    with pools.lend() as pool_of:
        assert pool_of(GSM8K) is not given_up


def test_a_reward_that_broke_everywhere_is_the_news():
    broken = RewardBroken("no parser")
    assert scores_or_broken([Score(1.0), broken]) == [Score(1.0), None]
    assert scores_or_broken([]) == []
    with pytest.raises(RewardBroken, match="no parser"):
        scores_or_broken([broken, broken])
