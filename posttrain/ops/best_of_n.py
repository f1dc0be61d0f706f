"""Best-of-n: what is gained by asking n times and keeping the answer that a reward likes best.

From one pool of N answers the expected outcome of every n <= N follows without chance (Coste et al.
2024, arXiv 2310.02743, from Nakano et al. 2021, arXiv 2112.09332): with the answers in ascending
order of the proxy, the i-th is the best of n drawn ones with probability C(i-1, n-1) / C(N, n).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from posttrain.ops.checks import check_rank


def kl_of_best_of_n(n: int) -> float:
    """KL(best-of-n || policy) = log n - (n - 1) / n, in nats (Stiennon et al. 2020, appendix G.3).

    An upper bound where answers repeat: then best-of-n is nearer to the policy.
    """
    if n < 1:
        raise ValueError(f"n is {n}, has to be 1 or more")
    return math.log(n) - (n - 1) / n


def weights_of_best_of_n(pool: int, n: int) -> Tensor:
    """[N] C(i-1, n-1) / C(N, n) for i = 1 to N: how likely the i-th smallest is the best of n.

    In logarithms: the binomials themselves leave the range of floats from N = 1,100 on.
    """
    if not 1 <= n <= pool:
        raise ValueError(f"n is {n}, has to be 1 to {pool}, the size of the pool")
    ranks_N = torch.arange(1, pool + 1, dtype=torch.float64)
    logs_N = _log_binomial(ranks_N - 1, n - 1) - _log_binomial(torch.tensor(float(pool)), n)
    return torch.where(ranks_N >= n, logs_N.exp(), 0.0)


def best_of_n(proxy_N: Tensor, gold_N: Tensor, n: int) -> tuple[float, float]:
    """(expected proxy, expected gold) of the best of n by the proxy.

    Both are put in one order: an answer keeps its own gold. Answers of equal proxy share their
    weights, so that the pool's order does not matter.
    """
    check_rank(1, proxy_N=proxy_N, gold_N=gold_N)
    if proxy_N.shape != gold_N.shape:
        raise ValueError(f"{len(proxy_N)} proxy scores and {len(gold_N)} gold scores")
    weights_N = weights_of_best_of_n(len(proxy_N), n)
    order_N = torch.argsort(proxy_N, stable=True)
    proxy_N, gold_N = proxy_N[order_N].double(), gold_N[order_N].double()
    _, which_N, counts = torch.unique_consecutive(proxy_N, return_inverse=True, return_counts=True)
    shared = torch.zeros(len(counts), dtype=torch.float64).index_add_(0, which_N, weights_N)
    weights_N = (shared / counts)[which_N]
    return float(weights_N @ proxy_N), float(weights_N @ gold_N)


def _log_binomial(n: Tensor, k: int) -> Tensor:
    """log C(n, k); anything where n < k, which the caller masks."""
    n = n.double().clamp(min=k)
    return torch.lgamma(n + 1) - math.lgamma(k + 1) - torch.lgamma(n - k + 1)
