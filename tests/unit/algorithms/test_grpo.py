import dataclasses
import math

import pytest
import torch

from posttrain.algorithms import grpo, needs_of
from posttrain.ports import AdvantageInputs, LossInputs, Needs


def advantage_inputs(rewards, lengths):
    total = sum(lengths)
    return AdvantageInputs(
        rewards_GK=torch.tensor(rewards),
        lengths_B=torch.tensor(lengths),
        mask_T=torch.ones(total),
        behaviour_logprobs_T=torch.zeros(total),
    )


def loss_inputs(logprobs, old, advantages, sequence=None, **others):
    tokens = len(logprobs)
    sequence = [0] * tokens if sequence is None else sequence
    defaults = {
        "logprobs_T": torch.tensor(logprobs, requires_grad=True),
        "old_logprobs_T": torch.tensor(old),
        "advantages_T": torch.tensor(advantages),
        "mask_T": torch.ones(tokens),
        "sequence_T": torch.tensor(sequence),
        "num_sequences": max(sequence) + 1,
        "total_tokens": float(tokens),
        "total_sequences": float(max(sequence) + 1),
    }
    return LossInputs(**(defaults | others))


def test_advantages_of_the_worked_example():
    # mean 0.5, unbiased std 0.577350: ±0.5 / (0.577350 + 1e-6)
    found = grpo.advantages(advantage_inputs([[1.0, 0.0, 0.0, 1.0]], [1, 1, 1, 1]), grpo.Config())
    assert found.advantages_T.tolist() == pytest.approx(
        [0.866024, -0.866024, -0.866024, 0.866024], abs=1e-6
    )


def test_advantages_without_scaling_repeat_over_tokens_of_any_length():
    inputs = advantage_inputs([[1.0, 0.0, 0.0, 1.0]], [2, 0, 1, 3])
    found = grpo.advantages(inputs, grpo.Config(scale="none"))
    assert found.advantages_T.tolist() == [0.5, 0.5, -0.5, 0.5, 0.5, 0.5]


def test_equal_rewards_teach_nothing():
    inputs = advantage_inputs([[1.0, 1.0], [0.0, 1.0]], [1, 1, 1, 1])
    found = grpo.advantages(inputs, grpo.Config())
    assert found.advantages_T.tolist() == pytest.approx([0, 0, -0.707106, 0.707106], abs=1e-6)


def test_a_group_of_one_is_refused():
    with pytest.raises(ValueError, match="two or more"):
        grpo.advantages(advantage_inputs([[1.0]], [1]), grpo.Config())


def test_loss_weighs_every_answer_the_same():
    # answer 0: tokens -1.2 (clipped) and -1; answer 1: one token 0.8 (clipped): (-1.1 + 0.8) / 2
    inputs = loss_inputs([0.5, 0.0, -0.5], [0.0, 0.0, 0.0], [1.0, 1.0, -1.0], [0, 0, 1])
    terms = grpo.loss(inputs, grpo.Config())
    assert terms.total.item() == pytest.approx(-0.15, abs=1e-6)
    assert terms.kl is None and terms.value is None
    found = {name: value.item() for name, value in terms.metrics.items()}
    assert found == pytest.approx(
        {
            "policy/ratio_mean": (1.648721 + 1.0 + 0.606531) / 3,
            "policy/clip_low_share": 1 / 3,
            "policy/clip_high_share": 1 / 3,
        },
        abs=1e-6,
    )


def test_token_mean():
    inputs = loss_inputs([0.5, 0.0, -0.5], [0.0, 0.0, 0.0], [1.0, 1.0, -1.0], [0, 0, 1])
    loss = grpo.loss(inputs, grpo.Config(aggregation="token-mean")).total
    assert loss.item() == pytest.approx((-1.2 - 1.0 + 0.8) / 3, abs=1e-6)


def test_on_policy_the_value_is_zero_and_the_gradient_is_not():
    inputs = loss_inputs([-1.0, -2.0], [-1.0, -2.0], [0.707107, -0.707107], [0, 1])
    loss = grpo.loss(inputs, grpo.Config()).total
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert inputs.logprobs_T.grad.tolist() == pytest.approx([-0.353553, 0.353553], abs=1e-6)


def test_the_loss_is_proportional_to_the_advantages():
    """So weighing a token's advantage weighs its loss, whatever its sign and clip."""
    arguments = [0.5, 0.5, -0.5, -0.5, 0.1], [0.0] * 5
    advantages, weights = [1.0, -1.0, 1.0, -1.0, 2.0], [1.2, 0.9, 0.0, 3.0, 0.5]
    weighed = [a * w for a, w in zip(advantages, weights, strict=True)]
    config = grpo.Config(aggregation="token-mean")
    alone = [
        grpo.loss(loss_inputs([lp], [0.0], [a], total_tokens=5.0), config).policy.item()
        for lp, a in zip(arguments[0], advantages, strict=True)
    ]
    together = grpo.loss(loss_inputs(*arguments, weighed), config).policy.item()
    expected = sum(w * loss for w, loss in zip(weights, alone, strict=True))
    assert together == pytest.approx(expected, abs=1e-6)


def test_kl_term_is_beta_times_k3():
    inputs = loss_inputs(
        [-0.5, -1.0, -0.2],
        [-0.5, -1.0, -0.2],
        [0.0, 0.0, 0.0],
        reference_logprobs_T=torch.tensor([-0.7, -0.9, -0.4]),
    )
    terms = grpo.loss(inputs, grpo.Config(kl_in_loss=0.04))
    # 0.04 · (0.018731 + 0.005171 + 0.018731) / 3
    assert terms.kl.item() == pytest.approx(0.000568, abs=1e-6)
    assert terms.total.item() == pytest.approx(0.000568, abs=1e-6)
    with pytest.raises(ValueError, match="no reference log-probs"):
        grpo.loss(dataclasses.replace(inputs, reference_logprobs_T=None), grpo.Config(kl_in_loss=1))


def test_masked_tokens_do_not_matter():
    inputs = loss_inputs([0.5, 9.0], [0.0, 0.0], [1.0, 1.0], mask_T=torch.tensor([1.0, 0.0]))
    inputs = dataclasses.replace(inputs, total_tokens=1.0)
    terms = grpo.loss(inputs, grpo.Config())
    assert terms.total.item() == pytest.approx(-1.2, abs=1e-6)
    assert terms.metrics["policy/ratio_mean"].item() == pytest.approx(math.exp(0.5), abs=1e-5)


def test_a_reference_is_needed_only_with_the_kl_term():
    assert needs_of(grpo, grpo.Config()) == Needs(groups=True)
    assert needs_of(grpo, grpo.Config(kl_in_loss=0.04)) == Needs(groups=True, reference=True)


@pytest.mark.parametrize(("reward", "samples"), [(7.3, 7), (3.3, 12), (0.7, 12), (7.3, 6)])
def test_equal_rewards_that_cannot_be_averaged_exactly_teach_nothing(reward, samples):
    """Their fp32 mean is not the reward itself; divided by 1e-6 the rest would be half a unit."""
    inputs = advantage_inputs([[reward] * samples], [1] * samples)
    for scale in ("std", "batch", "none"):
        found = grpo.advantages(inputs, grpo.Config(scale=scale))
        assert found.advantages_T.tolist() == [0.0] * samples
