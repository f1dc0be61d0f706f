import pytest

from posttrain.config.answers import ScoredReward
from posttrain.errors import RewardBroken
from posttrain.stages.scoring import reward_pools, scores_or_broken
from posttrain.types import Score


def test_who_asks_for_the_same_reward_gets_the_same_process_until_the_end(monkeypatch):
    opened, closed = [], []

    class Pool:
        def __init__(self, reward):
            opened.append((reward.name, reward.processes))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            closed.append(self)

    monkeypatch.setattr("posttrain.stages.scoring.reward_pool", Pool)
    with reward_pools() as pool_of:
        first = pool_of(ScoredReward(name="gsm8k"))
        assert pool_of(ScoredReward(name="gsm8k")) is first
        other = pool_of(ScoredReward(name="gsm8k", processes=2))
        assert closed == []
    assert opened == [("gsm8k", 1), ("gsm8k", 2)]
    assert closed == [other, first]


def test_a_reward_that_broke_everywhere_is_the_news():
    broken = RewardBroken("no parser")
    assert scores_or_broken([Score(1.0), broken]) == [Score(1.0), None]
    assert scores_or_broken([]) == []
    with pytest.raises(RewardBroken, match="no parser"):
        scores_or_broken([broken, broken])
