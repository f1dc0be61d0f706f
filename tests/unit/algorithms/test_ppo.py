import dataclasses

import pytest
import torch
from online_inputs import LOGPROBS, REFERENCE, batch_inputs, micro_inputs
from pydantic import ValidationError

from posttrain.algorithms import needs_of, ppo
from posttrain.ports import Needs


def worked(**others):
    given = {
        "behaviour_logprobs_T": LOGPROBS,
        "reference_logprobs_T": REFERENCE,
        "values_T": [0.2, 0.3, 0.5],
        "kl_coefficient": 0.05,
    }
    return batch_inputs([[1.0]], [3], **(given | others))


def test_advantages_of_the_worked_example():
    # rew = [-0.01, 0.005, 0.99]; A = [0.726975, 0.6705, 0.49]; R = A + V; then whitened
    found = ppo.advantages(worked(), ppo.Config())
    assert found.returns_T.tolist() == pytest.approx([0.926975, 0.9705, 0.99], abs=1e-6)
    assert found.advantages_T.tolist() == pytest.approx([0.790255, 0.333997, -1.124252], abs=1e-5)
    plain = ppo.advantages(worked(), ppo.Config(whiten_advantages=False))
    assert plain.advantages_T.tolist() == pytest.approx([0.726975, 0.6705, 0.49], abs=1e-6)


def test_the_explained_share_is_of_returns_before_whitening():
    found = ppo.advantages(worked(), ppo.Config())
    # Var(A) = 0.015321 over Var(R) of [0.926975, 0.9705, 0.99], which is 0.001041
    share = found.metrics["policy/value_explained_share"]
    assert share == pytest.approx(1 - 0.0153211 / 0.00104114, rel=1e-3)


def test_the_coefficient_in_force_is_charged_not_the_configured_one():
    # β = 0: rew = [0, 0, 1]; with λ = 1, A = 1 - V
    config = ppo.Config(whiten_advantages=False, gae_lambda=1.0, kl_in_reward=0.5)
    found = ppo.advantages(worked(kl_coefficient=0.0, reference_logprobs_T=None), config)
    assert found.advantages_T.tolist() == pytest.approx([0.8, 0.7, 0.5], abs=1e-6)


def test_whitened_rewards_keep_their_mean():
    config = ppo.Config(whiten_advantages=False, whiten_rewards=True, gae_lambda=1.0)
    found = ppo.advantages(worked(values_T=[0.0, 0.0, 0.0], kl_coefficient=0.0), config)
    # rewards [0, 0, 1]: mean 1/3, unbiased std 0.577350; x/std - mean/std + mean
    each = [-0.244017, -0.244017, 1.488034]
    expected = [sum(each), sum(each[1:]), each[2]]
    assert found.returns_T.tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, 10.0), ({"missing_eos_penalty": 4.0}, 6.0), ({"missing_eos_score": -10.0}, -10.0)],
)
def test_unfinished_answers_are_charged(settings, expected):
    config = ppo.Config(kl_in_reward=0, **settings)
    inputs = batch_inputs([[10.0, 10.0]], [1, 2], values_T=[0.0] * 3, cut_B=[False, True])
    found = ppo.advantages(inputs, config)
    assert found.returns_T[0].item() == 10.0
    assert found.returns_T[2].item() == pytest.approx(expected)


def test_unfinished_answers_are_charged_once():
    with pytest.raises(ValidationError, match=r"lowered \(missing_eos_penalty: 1\) and replaced"):
        ppo.Config(missing_eos_penalty=1, missing_eos_score=-10)


def test_cut_answers_have_to_be_known_to_be_charged():
    config = ppo.Config(missing_eos_penalty=1.0, kl_in_reward=0)
    with pytest.raises(ValueError, match="cut_B"):
        ppo.advantages(batch_inputs([[1.0]], [1], values_T=[0.0]), config)


def critic_inputs(logprobs, advantages, **others):
    tokens = len(logprobs)
    given = {
        "values_T": [0.0] * tokens,
        "old_values_T": [0.0] * tokens,
        "returns_T": [0.0] * tokens,
    }
    return micro_inputs(logprobs, advantages, **(given | others))


@pytest.mark.parametrize(
    ("advantage", "log_ratio", "dual_clip", "expected"),
    [
        (1.0, 0.5, None, -1.2),
        (1.0, -0.5, None, -0.606531),
        (-1.0, 0.5, None, 1.648721),
        (-1.0, -0.5, None, 0.8),
        (-1.0, 2.0, None, 7.389056),
        (-1.0, 2.0, 3.0, 3.0),
    ],
)
def test_policy_loss_of_the_worked_example(advantage, log_ratio, dual_clip, expected):
    inputs = critic_inputs([log_ratio], [advantage], old_logprobs_T=[0.0])
    terms = ppo.loss(inputs, ppo.Config(dual_clip=dual_clip))
    assert terms.policy.item() == pytest.approx(expected, abs=1e-5)
    if dual_clip:
        assert terms.metrics["policy/dual_clip_share"].item() == 1.0


def test_value_loss_is_a_mean_over_tokens_whatever_the_policy_s_aggregation():
    # ½·max(0.1², 0.6²) = 0.18 and ½·0.5² = 0.125, over 2 tokens of 2 answers; times 0.1
    inputs = critic_inputs(
        [0.0, 0.0], [0.0, 0.0], sequence_T=[0, 1],
        values_T=torch.tensor([0.9, 0.5], requires_grad=True), old_values_T=[0.2, 0.5],
        returns_T=[1.0, 1.0],
    )  # fmt: skip
    terms = ppo.loss(inputs, ppo.Config(aggregation="seq-mean-token-sum"))
    assert terms.value.item() == pytest.approx(0.1 * (0.18 + 0.125) / 2, abs=1e-6)
    assert terms.metrics["policy/value_loss"].item() == pytest.approx(0.1525, abs=1e-6)
    terms.total.backward()
    assert inputs.values_T.grad.tolist() == pytest.approx([0.0, -0.025], abs=1e-6)


def test_without_a_critic_it_says_so():
    with pytest.raises(ValueError, match="ppo needs a critic's value before each token"):
        ppo.advantages(batch_inputs([[1.0]], [1]), ppo.Config())
    inputs = dataclasses.replace(critic_inputs([0.0], [1.0]), values_T=None)
    with pytest.raises(ValueError, match="ppo needs values_T"):
        ppo.loss(inputs, ppo.Config())


def test_needs():
    assert needs_of(ppo, ppo.Config()) == Needs(critic=True, reference=True) == ppo.NEEDS
    assert needs_of(ppo, ppo.Config(kl_in_reward=0)) == Needs(critic=True)
