import pytest
import torch

from posttrain.ops import baselines

REWARDS = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]])


def test_mean_and_unbiased_std():
    assert baselines.group_mean(REWARDS).tolist() == [[0.5], [1.0]]
    # sqrt(4 · 0.25 / 3)
    assert baselines.group_std(REWARDS).flatten().tolist() == pytest.approx([0.577350, 0], abs=1e-6)


def test_leave_one_out_advantage_is_two_thirds():
    # own 1: others (0 + 0 + 1) / 3, so 1 - 1/3; own 0: others 2/3
    advantages = (REWARDS - baselines.leave_one_out(REWARDS))[0]
    assert advantages.tolist() == pytest.approx([2 / 3, -2 / 3, -2 / 3, 2 / 3], abs=1e-6)


def test_over_tokens_repeats_by_length_and_skips_empty_answers():
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    got = baselines.over_tokens(values, torch.tensor([2, 0, 1, 3]))
    assert got.tolist() == [1.0, 1.0, 3.0, 4.0, 4.0, 4.0]
    with pytest.raises(ValueError, match="3 lengths for 4 sequences"):
        baselines.over_tokens(values, torch.tensor([1, 1, 1]))


def test_groups_of_one_are_refused():
    with pytest.raises(ValueError, match="two or more"):
        baselines.group_mean(torch.ones(3, 1))


def test_group_advantages_under_every_scale():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [2.0, 2.0, 2.0, 2.0]])
    # unbiased std of the group 0.577350; of the batch's eight rewards: mean 1.25, var 5.5/7
    batch = 0.5 / 0.886405
    for scale, size in (("std", 0.866024), ("batch", batch), ("none", 0.5)):
        found = baselines.group_advantages(rewards, scale)
        assert found[0].tolist() == pytest.approx([size, -size, -size, size], abs=1e-5)
        assert found[1].tolist() == [0.0, 0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="no scale 'mean'"):
        baselines.group_advantages(rewards, "mean")


def test_the_batch_s_mean_of_equal_rewards_is_exactly_that_reward():
    assert baselines.batch_mean(torch.tensor([[1.0, 0.0], [0.5, 0.5]])).item() == 0.5
    assert baselines.batch_mean(torch.full((4, 3), 7.3)).item() == torch.tensor(7.3).item()
    assert baselines.batch_mean(torch.tensor([[0.25]])).item() == 0.25  # a single answer
