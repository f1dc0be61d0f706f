import itertools
import statistics

import pytest
import torch

from posttrain.ops.best_of_n import best_of_n, kl_of_best_of_n, weights_of_best_of_n

GOLD = torch.tensor([5.0, 1.0, 4.0, 2.0])  # in ascending order of the proxy
PROXY = torch.tensor([0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    ("n", "nats"), [(1, 0.0), (2, 0.193147), (4, 0.636294), (16, 1.835089), (12_500, 8.433564)]
)
def test_kl(n, nats):
    assert kl_of_best_of_n(n) == pytest.approx(nats, abs=1e-6)


@pytest.mark.parametrize(("n", "expected"), [(1, 3.0), (2, 2.5), (3, 2.5), (4, 2.0)])
def test_worked_numbers(n, expected):
    assert best_of_n(PROXY, GOLD, n)[1] == pytest.approx(expected)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7])
def test_it_is_the_mean_over_all_draws(n):
    """By brute force, with answers in no order, two of them with the same proxy and gold."""
    generator = torch.Generator().manual_seed(n)
    proxy = torch.rand(7, dtype=torch.float64, generator=generator)
    gold = torch.rand(7, dtype=torch.float64, generator=generator)
    proxy[3], gold[3] = proxy[5], gold[5]
    draws = [max(draw, key=lambda i: proxy[i]) for draw in itertools.combinations(range(7), n)]
    expected = (
        statistics.fmean(proxy[i].item() for i in draws),
        statistics.fmean(gold[i].item() for i in draws),
    )
    assert best_of_n(proxy, gold, n) == pytest.approx(expected)


def test_answers_of_equal_proxy_share_their_weights():
    """The pool's order must not matter: which of two equals is kept is chance."""
    proxy, gold = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([4.0, 2.0, 7.0])
    assert best_of_n(proxy, gold, 3)[1] == pytest.approx(3.0)
    order = torch.tensor([1, 2, 0])
    assert best_of_n(proxy[order], gold[order], 3)[1] == pytest.approx(3.0)


@pytest.mark.parametrize("n", [1, 64, 4096, 12_600])
def test_weights_of_a_large_pool_are_finite_and_sum_to_one(n):
    weights = weights_of_best_of_n(12_600, n)
    assert weights.sum().item() == pytest.approx(1.0, abs=1e-7)
    assert torch.equal(weights[: n - 1], torch.zeros(n - 1, dtype=torch.float64))
    assert weights[-1].item() == pytest.approx(n / 12_600, rel=1e-7)


def test_more_than_the_pool_cannot_be_drawn():
    with pytest.raises(ValueError, match="has to be 1 to 4"):
        best_of_n(PROXY, GOLD, 5)
    with pytest.raises(ValueError, match="4 proxy scores and 3 gold"):
        best_of_n(PROXY, GOLD[:3], 2)
