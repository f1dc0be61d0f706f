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


def test_k3_plus_has_the_value_of_k3_and_the_gradient_of_k2():
    logprobs = LOGPROBS.clone().requires_grad_()
    found = kl.k3_plus(logprobs, REFERENCE)
    assert found.tolist() == pytest.approx([0.018731, 0.005171, 0.018731], abs=1e-6)
    found.sum().backward()
    assert logprobs.grad.tolist() == pytest.approx([0.2, -0.1, 0.2], abs=1e-6)  # d


def test_only_k2_and_k3_plus_have_the_gradient_of_the_kl_divergence():
    # Over all tokens of a softmax: dKL/dz_i = p_i·(ln(p_i/q_i) - KL); a sampled term's gradient is
    # averaged with p held fixed, as in training.
    logits = torch.tensor([0.3, -0.2, 0.9])
    reference = torch.tensor([0.1, 0.5, 0.4]).log()

    def gradient(of):
        leaf = logits.clone().requires_grad_()
        of(leaf.log_softmax(0)).backward()
        return leaf.grad.tolist()

    def averaged(name):
        return gradient(lambda lp: (lp.detach().exp() * kl.estimate(name, lp, reference)).sum())

    truth = gradient(lambda lp: (lp.exp() * (lp - reference)).sum())
    other_way = gradient(lambda lp: (reference.exp() * (reference - lp)).sum())
    assert averaged("k2") == pytest.approx(truth, abs=1e-6)
    assert averaged("k3+") == pytest.approx(truth, abs=1e-6)
    assert averaged("k3") == pytest.approx(other_way, abs=1e-6)
    assert averaged("k1") == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)


def test_absolute_does_not_cancel():
    assert kl.absolute(LOGPROBS, REFERENCE).tolist() == pytest.approx([0.2, 0.1, 0.2], abs=1e-6)


@pytest.mark.parametrize(
    ("kl_nats", "expected"),
    [
        (9.0, 0.201024),  # 9/6 - 1 = 0.5, held to 0.2: 0.2·(1 + 0.2·256/10000)
        (6.3, 0.200256),  # 0.05: 0.2·(1 + 0.05·0.0256)
        (6.0, 0.2),
        (0.0, 0.198976),  # -1, held to -0.2
    ],
)
def test_the_coefficient_follows_the_target(kl_nats, expected):
    found = kl.adapted_coefficient(0.2, kl_nats, 6.0, 10_000, 256)
    assert found == pytest.approx(expected, abs=1e-9)


def test_the_coefficient_never_changes_its_sign_in_one_batch():
    # 1,024 answers of a horizon of 100: held to 1; 0.2 * (1 - 0.2)
    assert kl.adapted_coefficient(0.2, 0.0, 6.0, 100, 1024) == pytest.approx(0.16)
