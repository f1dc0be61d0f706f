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
