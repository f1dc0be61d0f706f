"""The law of over-optimisation: true quality against the distance from where training began.

    R(d) = d · (alpha - beta log d),  d = sqrt(KL(policy || start))

Gao et al. 2023 (arXiv 2210.10760) found it for reinforcement learning, Rafailov et al. 2024 (arXiv
2406.02900) for direct alignment. Quality rises, peaks at d* = exp(alpha / beta - 1) with
R* = beta d*, and falls. alpha and beta hold for one model, one algorithm and one judge.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from posttrain.ops.checks import check_rank

SHORTEST = 1e-3
"""Distances below are left out of a fit: there is nothing but noise to be seen."""


class Law(NamedTuple):
    """A fitted law. Example: Law(1.2, 0.3) peaks at d = 20.09 with R = 6.03."""

    alpha: float
    beta: float

    def quality(self, distances_N: Tensor) -> Tensor:
        """[N] R(d); 0 at d = 0, its limit."""
        d_N = distances_N.double()
        safe_N = d_N.clamp(min=1e-300)
        return torch.where(d_N > 0, d_N * (self.alpha - self.beta * safe_N.log()), 0.0)

    @property
    def peak(self) -> tuple[float, float] | None:
        """(d*, R*): where to stop and what is to be had there; None where quality never falls."""
        if self.beta <= 0:
            return None
        distance = float(torch.tensor(self.alpha / self.beta - 1.0, dtype=torch.float64).exp())
        return distance, self.beta * distance


def fit(distances_N: Tensor, qualities_N: Tensor) -> Law:
    """Least squares over the features d and -d log d, which the law is linear in.

    Raises ValueError with fewer than two different distances of SHORTEST or more.
    """
    check_rank(1, distances_N=distances_N, qualities_N=qualities_N)
    if distances_N.shape != qualities_N.shape:
        raise ValueError(f"{len(distances_N)} distances and {len(qualities_N)} qualities")
    far_N = distances_N >= SHORTEST
    d_N, r_N = distances_N[far_N].double(), qualities_N[far_N].double()
    if len(torch.unique(d_N)) < 2:
        raise ValueError("a law of two numbers needs two different distances or more")
    features = torch.stack([d_N, -d_N * d_N.log()], dim=1)
    alpha, beta = torch.linalg.lstsq(features, r_N[:, None]).solution.flatten().tolist()
    return Law(alpha, beta)
