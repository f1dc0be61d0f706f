import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.ops import returns

KL = torch.tensor([0.2, -0.1, 0.2])
REWARDS = torch.tensor([-0.01, 0.005, 0.99])
VALUES = torch.tensor([0.2, 0.3, 0.5])
THREE = torch.tensor([3])


def test_token_rewards_of_the_worked_example():
    # -0.05 · kl, and the score 1 on the last token
    found = returns.token_rewards(torch.tensor([1.0]), KL, 0.05, THREE, torch.ones(3))
    assert found.tolist() == pytest.approx([-0.01, 0.005, 0.99], abs=1e-6)


@pytest.mark.parametrize(("score", "expected"), [(10.0, [-0.005, 10.01]), (-10.0, [-0.005, -9.99])])
def test_token_rewards_of_a_verifier(score, expected):
    found = returns.token_rewards(
        torch.tensor([score]), torch.tensor([0.1, -0.2]), 0.05, torch.tensor([2]), torch.ones(2)
    )
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_the_score_lies_on_the_last_token_that_the_policy_chose():
    # Sequences of 3, 0, 2 and 1 tokens; the first ends in an environment's token, the last is one.
    mask = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, 0.0])
    found = returns.token_rewards(
        torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.zeros(6), 0.1, torch.tensor([3, 0, 2, 1]), mask
    )
    assert found.tolist() == [0.0, 1.0, 0.0, 0.0, 3.0, 0.0]


def test_returns_to_go():
    rewards, lengths = torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([3, 1])
    assert returns.to_go(rewards, lengths, torch.ones(4)).tolist() == [7.0, 6.0, 4.0, 8.0]
    # γ = 0.5: 1 + 0.5·(2 + 0.5·4) = 3; 2 + 0.5·4 = 4
    assert returns.to_go(rewards, lengths, torch.ones(4), 0.5).tolist() == [3.0, 4.0, 4.0, 8.0]


def test_an_environment_s_token_is_passed_over_without_a_discount():
    # 1 + 0.5·4: the masked 2 in between counts neither as a reward nor as a step
    mask = torch.tensor([1.0, 0.0, 1.0])
    found = returns.to_go(torch.tensor([1.0, 2.0, 4.0]), THREE, mask, 0.5)
    assert found.tolist() == [3.0, 0.0, 4.0]


def test_advantages_of_the_worked_example():
    # δ = [-0.01 + 0.3 - 0.2, 0.005 + 0.5 - 0.3, 0.99 - 0.5] = [0.09, 0.205, 0.49]
    # A = [0.09 + 0.95·0.6705, 0.205 + 0.95·0.49, 0.49];  R = A + V
    advantages, found = returns.generalised_advantages(REWARDS, VALUES, THREE, torch.ones(3))
    assert advantages.tolist() == pytest.approx([0.726975, 0.6705, 0.49], abs=1e-6)
    assert found.tolist() == pytest.approx([0.926975, 0.9705, 0.99], abs=1e-6)


def test_an_environment_s_tokens_hand_value_and_advantage_on():
    # The worked example with two tokens in between that are not the policy's, full of nonsense.
    mask = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0])
    rewards = torch.tensor([-0.01, 7.0, float("nan"), 0.005, 0.99])
    values = torch.tensor([0.2, 9.0, float("inf"), 0.3, 0.5])
    advantages, found = returns.generalised_advantages(rewards, values, torch.tensor([5]), mask)
    assert advantages.tolist() == pytest.approx([0.726975, 0, 0, 0.6705, 0.49], abs=1e-6)
    assert found.tolist() == pytest.approx([0.926975, 0, 0, 0.9705, 0.99], abs=1e-6)


def test_lambda_one_is_what_was_earned_less_the_value_and_lambda_zero_one_step():
    ones = torch.ones(3)
    long, _ = returns.generalised_advantages(REWARDS, VALUES, THREE, ones, gae_lambda=1.0)
    # earned from here: 0.985, 0.995, 0.99
    assert long.tolist() == pytest.approx([0.785, 0.695, 0.49], abs=1e-6)
    short, _ = returns.generalised_advantages(REWARDS, VALUES, THREE, ones, gae_lambda=0.0)
    assert short.tolist() == pytest.approx([0.09, 0.205, 0.49], abs=1e-6)


@given(
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=5),
    gamma=st.floats(0.5, 1.0),
    gae_lambda=st.floats(0.0, 1.0),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60)
def test_packed_is_what_a_loop_over_each_sequence_gives(lengths, gamma, gae_lambda, seed):
    generator = torch.Generator().manual_seed(seed)
    total = sum(lengths)
    rewards, values = torch.randn(2, total, generator=generator)
    mask = (torch.rand(total, generator=generator) < 0.7).float()
    advantages, found = returns.generalised_advantages(
        rewards, values, torch.tensor(lengths), mask, gamma=gamma, gae_lambda=gae_lambda
    )
    expected = torch.zeros(2, total)
    end = total
    for length in reversed(lengths):
        next_value = next_advantage = 0.0
        for t in reversed(range(end - length, end)):
            if not mask[t]:
                continue
            error = rewards[t] + gamma * next_value - values[t]
            next_advantage = error + gamma * gae_lambda * next_advantage
            next_value = values[t]
            expected[0, t], expected[1, t] = next_advantage, next_advantage + values[t]
        end -= length
    torch.testing.assert_close(advantages, expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found, expected[1], atol=1e-5, rtol=1e-5)


def test_nothing_at_all():
    nothing, no_length = torch.zeros(0), torch.zeros(0, dtype=torch.long)
    assert returns.to_go(nothing, no_length, nothing).tolist() == []
    masked = returns.generalised_advantages(REWARDS, VALUES, THREE, torch.zeros(3))
    assert [each.tolist() for each in masked] == [[0.0, 0.0, 0.0]] * 2


def test_lengths_must_add_up():
    with pytest.raises(ValueError, match="lengths_B adds up to 2, mask_T has 3"):
        returns.to_go(REWARDS, torch.tensor([2]), torch.ones(3))
    with pytest.raises(ValueError, match="values_T has shape"):
        returns.generalised_advantages(REWARDS, VALUES[:2], THREE, torch.ones(3))
    with pytest.raises(TypeError, match="kl_T is torch"):
        returns.token_rewards(torch.ones(1), torch.ones(3).long(), 0.1, THREE, torch.ones(3))
