import pytest
import torch

from posttrain.ops import kl

LOGPROBS = torch.tensor([-0.5, -1.0, -0.2])
REFERENCE = torch.tensor([-0.7, -0.9, -0.4])  # d = [0.2, -0.1, 0.2]


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        (kl.k1, [0.2, -0.1, 0.2]),
        (kl.k2, [0.02, 0.005, 0.02]),
        (kl.k3, [0.018731, 0.005171, 0.018731]),  # exp(-d) - 1 + d
    ],
)
def test_worked_example(estimator, expected):
    assert estimator(LOGPROBS, REFERENCE).tolist() == pytest.approx(expected, abs=1e-6)
    assert estimator(LOGPROBS, LOGPROBS).tolist() == [0.0, 0.0, 0.0]


def test_k1_and_k3_average_to_the_kl_divergence():
    # KL of [0.5, 0.5] to [0.25, 0.75] is 0.5·ln 2 + 0.5·ln(2/3) = 0.143841
    policy, reference = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    for estimator in (kl.k1, kl.k3):
        mean = (policy.exp() * estimator(policy, reference)).sum().item()
        assert mean == pytest.approx(0.143841, abs=1e-6)
