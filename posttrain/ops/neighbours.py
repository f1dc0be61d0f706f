"""Which prompts are alike: cosines between directions of their mean states.

The papers that this serves embed sentences with SimCSE (Gao et al. 2021, arXiv 2104.08821), a model
trained for that. Here a prompt's embedding is the mean over its tokens of the last hidden states of
the model at hand: there is nothing to fetch, and it reads every language and format that the model
reads. Such states share one large direction, and any two have a cosine near 1 (Ethayarajh 2019,
arXiv 1909.00512); so the mean over all prompts, the centre, is taken away first. Then prompts that
are unlike have a cosine around 0, as they have with SimCSE.

Degenerate: a state at the centre has no direction, and a cosine of 0 to everything; so have all
where all prompts are one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from posttrain.ops.checks import check_floating, check_rank


def directions(states_ND: Tensor, centre_D: Tensor) -> Tensor:
    """[N, D] fp32 of length 1, seen from the centre; zeros for states that lie on it."""
    check_rank(2, states_ND=states_ND)
    check_rank(1, centre_D=centre_D)
    check_floating(states_ND=states_ND, centre_D=centre_D)
    away_ND = states_ND.float() - centre_D.float()
    # Rounding leaves something of equal states, and that would have a direction.
    rounding_N = 1e-5 * states_ND.float().norm(dim=1)
    length_N = away_ND.norm(dim=1)
    away_ND = torch.where((length_N > rounding_N)[:, None], away_ND, 0.0)
    return torch.nn.functional.normalize(away_ND, dim=1)


def nearest(
    asked_BD: Tensor, known_ND: Tensor, count: int, lowest: float
) -> list[list[tuple[int, float]]]:
    """For each asked direction (place among the known ones, cosine), the nearest first: at most
    `count`, none under `lowest`.
    """
    check_rank(2, asked_BD=asked_BD, known_ND=known_ND)
    cosines_BN = asked_BD @ known_ND.T
    best = cosines_BN.topk(min(count, cosines_BN.shape[1]), dim=1)
    return [
        [(place, cosine) for place, cosine in zip(places, cosines, strict=True) if cosine >= lowest]
        for places, cosines in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
