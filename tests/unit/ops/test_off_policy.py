"""The worked numbers of decoupled PPO and of truncated importance sampling."""

import math

import pytest
import torch

from posttrain.ops import masked, off_policy, surrogates

# (behaviour, proximal, current) of three tokens, all with advantage 1
BEHAVIOUR = torch.tensor([-1.2, -3.0, -0.5])
PROXIMAL = torch.tensor([-1.0, -1.0, -0.6])
CURRENT = torch.tensor([-0.7, -0.9, -0.6])

# the same weights, other kernels: what the trainer and what the engine computes
TRAINER = torch.tensor([-1.0, -2.0, -0.5])
ENGINE = torch.tensor([-1.1, -3.2, -0.4])


def decoupled_losses(behaviour, proximal, current, advantages):
    ratio = surrogates.ratio(current, proximal)
    weights = off_policy.bounded(off_policy.token_weights(proximal, behaviour), "cap", 0.0, 5.0)
    return weights * surrogates.clipped(ratio, advantages, 0.2, 0.2)


def test_one_token_of_the_decoupled_objective():
    one = BEHAVIOUR[:1], PROXIMAL[:1], CURRENT[:1], torch.ones(1)
    # u = exp(0.3), w = exp(0.2): -1.221403 · min(1.349859, 1.2)
    assert surrogates.ratio(one[2], one[1]).item() == pytest.approx(1.349859, abs=1e-6)
    assert off_policy.token_weights(one[1], one[0]).item() == pytest.approx(1.221403, abs=1e-6)
    assert decoupled_losses(*one).item() == pytest.approx(-1.465683, abs=1e-6)
    naive = surrogates.ratio(one[2], one[0])
    assert naive.item() == pytest.approx(1.648721, abs=1e-6)
    assert surrogates.clipped(naive, one[3], 0.2, 0.2).item() == pytest.approx(-1.2, abs=1e-6)


def test_three_tokens_with_the_cap():
    weights = off_policy.token_weights(PROXIMAL, BEHAVIOUR)
    assert weights.tolist() == pytest.approx([1.221403, 7.389056, 0.904837], abs=1e-6)
    capped = off_policy.bounded(weights, "cap", 0.0, 5.0)
    assert capped.tolist() == pytest.approx([1.221403, 0.0, 0.904837], abs=1e-6)
    assert off_policy.is_outside(weights, "cap", 0.0, 5.0).tolist() == [False, True, False]
    losses = decoupled_losses(BEHAVIOUR, PROXIMAL, CURRENT, torch.ones(3))
    # the dropped token stays in the denominator: -(1.465683 + 0 + 0.904837) / 3
    total = masked.aggregate(
        losses, torch.ones(3), torch.zeros(3, dtype=torch.long), 1, "token-mean",
        total_tokens=3.0, total_sequences=1.0,
    )  # fmt: skip
    assert total.item() == pytest.approx(-0.790174, abs=1e-6)


def test_log_linear_proximal():
    # sampled by version 3, the step makes 6 of 5: a = (5 - 3) / (6 - 3); -1.2 + 2/3 · 0.6
    found = off_policy.interpolate(
        torch.tensor([-1.2]), torch.tensor([-0.6]), torch.tensor([3]), step=5
    )
    assert found.item() == pytest.approx(-0.8, abs=1e-6)


def test_log_linear_by_age_of_each_token():
    found = off_policy.interpolate(
        torch.tensor([-1.0] * 4), torch.tensor([-2.0] * 4), torch.tensor([5, 4, 3, 6]), step=5
    )
    # ages 0, 1, 2: shares 0, 1/2, 2/3; never below 0, whatever the version
    assert found.tolist() == pytest.approx([-1.0, -1.5, -1.666667, -1.0], abs=1e-6)


def test_truncated_importance_sampling_is_clamp():
    weights = off_policy.token_weights(TRAINER, ENGINE)
    assert weights.tolist() == pytest.approx([1.105171, 3.320117, 0.904837], abs=1e-6)
    clamped = off_policy.bounded(weights, "clamp", 0.0, 2.0)
    assert clamped.tolist() == pytest.approx([1.105171, 2.0, 0.904837], abs=1e-6)
    assert off_policy.is_outside(weights, "clamp", 0.0, 2.0).tolist() == [False, True, False]


def test_masked_importance_sampling_is_mask():
    weights = off_policy.token_weights(TRAINER, ENGINE)
    kept = off_policy.bounded(weights, "mask", 0.5, 2.0)
    assert kept.tolist() == pytest.approx([1.105171, 0.0, 0.904837], abs=1e-6)
    kept = off_policy.bounded(weights, "mask", 0.95, 4.0)
    assert kept.tolist() == pytest.approx([1.105171, 3.320117, 0.0], abs=1e-6)
    assert off_policy.is_outside(weights, "mask", 0.95, 4.0).tolist() == [False, False, True]


def test_the_sequence_level_is_the_geometric_mean():
    one = torch.zeros(3, dtype=torch.long)
    weights = off_policy.sequence_weights(TRAINER, ENGINE, torch.ones(3), one, 1)
    assert weights.tolist() == pytest.approx([1.491825] * 3, abs=1e-6)  # exp((0.1 + 1.2 - 0.1) / 3)
    assert weights[0].item() ** 3 == pytest.approx(3.320117, abs=1e-5)  # the plain product
    masked_in = torch.tensor([1.0, 0.0, 1.0])
    weights = off_policy.sequence_weights(TRAINER, ENGINE, masked_in, one, 1)
    assert weights.tolist() == pytest.approx([1.0] * 3, abs=1e-6)  # exp((0.1 - 0.1) / 2)


def test_each_sequence_has_its_own_weight_and_an_empty_one_weighs_one():
    sequence = torch.tensor([0, 0, 2])
    mask = torch.tensor([1.0, 1.0, 0.0])
    weights = off_policy.sequence_weights(TRAINER, ENGINE, mask, sequence, 3)
    # exp((0.1 + 1.2) / 2); the third token's sequence has no chosen token
    assert weights.tolist() == pytest.approx([1.915541, 1.915541, 1.0], abs=1e-6)


def test_weights_are_detached_and_finite():
    proximal = torch.tensor([0.0, -1e4], requires_grad=True)
    weights = off_policy.token_weights(proximal, torch.tensor([-1e4, 0.0]))
    assert not weights.requires_grad
    assert weights.tolist() == pytest.approx([math.exp(20), math.exp(-20)], rel=1e-5)
    infinite = torch.tensor([-math.inf, -1.0])
    sequence = torch.zeros(2, dtype=torch.long)
    found = off_policy.sequence_weights(
        infinite, torch.tensor([-1.0, -1.0]), torch.tensor([0.0, 1.0]), sequence, 1
    )
    assert found.tolist() == [1.0, 1.0]


def test_no_tokens():
    empty = torch.zeros(0)
    assert off_policy.token_weights(empty, empty).tolist() == []
    assert off_policy.interpolate(empty, empty, empty.long(), 3).tolist() == []


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"behaviour_logprobs_T has shape \(2,\), proximal_logp"):
        off_policy.token_weights(torch.zeros(3), torch.zeros(2))
    with pytest.raises(ValueError, match=r"versions_T has shape \(2,\)"):
        off_policy.interpolate(torch.zeros(3), torch.zeros(3), torch.zeros(2).long(), 1)
