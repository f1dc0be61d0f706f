import pytest
import torch

from posttrain.ops import surrogates


@pytest.mark.parametrize(
    ("advantage", "log_ratio", "clip_high", "expected"),
    [
        (1.0, 0.5, 0.2, -1.2),  # ratio 1.648721, clipped to 1.2
        (1.0, -0.5, 0.2, -0.606531),
        (-1.0, 0.5, 0.2, 1.648721),  # a bad token grown likelier is never clipped
        (-1.0, -0.5, 0.2, 0.8),
        (1.0, 0.3, 0.28, -1.28),  # clip-higher: ratio 1.349859
        (0.0, 0.3, 0.2, 0.0),
    ],
)
def test_clipped_loss(advantage, log_ratio, clip_high, expected):
    ratio = surrogates.ratio(torch.tensor([log_ratio]), torch.tensor([0.0]))
    loss = surrogates.clipped(ratio, torch.tensor([advantage]), 0.2, clip_high)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_gradient_stops_where_the_clip_took_it():
    logprobs = torch.tensor([0.5, -0.5, 0.5, -0.5], requires_grad=True)
    ratio = surrogates.ratio(logprobs, torch.zeros(4))
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0])
    surrogates.clipped(ratio, advantages, 0.2, 0.2).sum().backward()
    # d(-A·exp(x))/dx = -A·exp(x) where it is not clipped
    assert logprobs.grad.tolist() == pytest.approx([0.0, -0.606531, 1.648721, 0.0], abs=1e-6)
    assert surrogates.clipped_high(ratio, advantages, 0.2).tolist() == [True, False, False, False]
    assert surrogates.clipped_low(ratio, advantages, 0.2).tolist() == [False, False, False, True]


def test_ratio_stays_finite():
    ratio = surrogates.ratio(torch.tensor([0.0, -1e4]), torch.tensor([-1e4, 0.0]))
    assert ratio.tolist() == pytest.approx([4.851652e8, 2.061154e-9], rel=1e-5)  # exp(±20)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"old_logprobs_T has shape \(2,\), logprobs_T has \(3,\)"):
        surrogates.ratio(torch.zeros(3), torch.zeros(2))


def test_dual_clip_bounds_a_bad_token_that_grew_likelier():
    ratio = surrogates.ratio(torch.tensor([2.0, 2.0, 0.5]), torch.zeros(3))
    advantages = torch.tensor([-1.0, 1.0, -1.0])
    losses = surrogates.clipped(ratio, advantages, 0.2, 0.2)
    assert losses.tolist() == pytest.approx([7.389056, -1.2, 1.648721], abs=1e-5)
    found = surrogates.dual_clipped(losses, advantages, 3.0)
    assert found.tolist() == pytest.approx([3.0, -1.2, 1.648721], abs=1e-6)


def test_sequence_ratio_is_the_geometric_mean_with_each_token_s_own_gradient():
    # Two sequences; the second's last token is masked. Means: 0.4/4 = 0.1 and -0.2.
    logprobs = torch.tensor([0.1, -0.3, 0.2, 0.4, -0.2, 5.0], requires_grad=True)
    mask, sequence = torch.tensor([1.0] * 5 + [0.0]), torch.tensor([0, 0, 0, 0, 1, 1])
    ratio = surrogates.sequence_ratio(logprobs, torch.zeros(6), mask, sequence, 3)
    assert ratio.tolist() == pytest.approx([1.105171] * 4 + [0.818731] * 2, abs=1e-6)
    (ratio * mask).sum().backward()
    assert logprobs.grad.tolist() == pytest.approx([1.105171] * 4 + [0.818731, 0.0], abs=1e-6)
    clipped = surrogates.clipped(ratio, torch.ones(6), 3e-4, 4e-4)
    assert clipped[0].item() == pytest.approx(-1.0004, abs=1e-6)


def test_sequence_ratio_stays_finite():
    far = torch.tensor([1e4, -1e4])
    ratio = surrogates.sequence_ratio(far, torch.zeros(2), torch.ones(2), torch.arange(2), 2)
    assert ratio.tolist() == pytest.approx([22026.4658, 4.539993e-5], rel=1e-5)  # exp(±10)


@pytest.mark.parametrize(
    ("log_ratio", "weight", "loss"),
    # A = 2, log π = -1, weights held to [0.8, 1.28]: -w·2·(-1)
    [(-1.0, 0.8, 1.6), (0.1, 1.105171, 2.210342), (0.5, 1.28, 2.56)],
)
def test_weighted_logprobs_keep_every_gradient(log_ratio, weight, loss):
    logprobs = torch.tensor([-1.0], requires_grad=True)
    ratio = surrogates.ratio(logprobs, logprobs.detach() - log_ratio)
    found = surrogates.weighted_logprobs(logprobs, ratio.clamp(0.8, 1.28), torch.tensor([2.0]))
    assert found.item() == pytest.approx(loss, abs=1e-5)
    found.backward()
    assert logprobs.grad.item() == pytest.approx(-2.0 * weight, abs=1e-5)


def test_soft_gate_of_the_worked_example():
    # 4/1·σ(0.5) = 2.489837 and 4/1.05·σ(0.525) = 2.393585
    ratio = torch.tensor([1.5, 1.5])
    found = surrogates.soft_gated(ratio, torch.tensor([1.0, -1.0]), 1.0, 1.05)
    assert found.tolist() == pytest.approx([-2.489837, 2.393585], abs=1e-5)


def test_soft_gate_has_the_ungated_gradient_at_one_and_none_far_away():
    ratio = torch.tensor([1.0, 1.0, 40.0], requires_grad=True)
    surrogates.soft_gated(ratio, torch.tensor([2.0, -2.0, 2.0]), 1.0, 1.05).sum().backward()
    assert ratio.grad.tolist() == pytest.approx([-2.0, 2.0, 0.0], abs=1e-6)
