"""Several reward models as one reward, so that no single one's mistakes are worth exploiting.

M members trained with different seeds agree where they know, and differ where they guess (Coste et
al. 2024, arXiv 2310.02743). A cautious combination pays less where they differ.

    mean   R = mean_i R_i
    wco    R = min_i R_i                                     worst case
    uwo    R = mean_i R_i - λ · mean_i (R_i - mean)²         uncertainty-weighted

Every member's scores are first standardised with its own mean and deviation, measured once on a
held-out set: otherwise the smallest is the one with the lowest offset, and λ has a unit.

The variance is that of the population (divided by M). The authors' own programs divide by M in one
place and by M - 1 in another, which makes λ weigh M / (M - 1) times as much.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from posttrain.ops.checks import check_floating, check_rank

Combine = Literal["mean", "wco", "uwo"]


def standardised(scores_MB: Tensor, means_M: Tensor, stds_M: Tensor) -> Tensor:
    """[M, B] each member's scores as deviations from its own mean, in its own deviations.

    Raises ValueError where a member's deviation is not above 0: it scores everything alike.
    """
    _check(scores_MB)
    members = scores_MB.shape[0]
    if means_M.shape != (members,) or stds_M.shape != (members,):
        raise ValueError(f"{members} members need as many means and standard deviations")
    if not bool((stds_M > 0).all()):
        raise ValueError("a member whose scores never differ cannot be standardised")
    return (scores_MB - means_M[:, None]) / stds_M[:, None]


def combined(scores_MB: Tensor, combine: Combine, weight: float = 0.5) -> Tensor:
    """[B] one reward of standardised scores; `weight` is λ of uwo, and unused by the others."""
    _check(scores_MB)
    if combine == "mean":
        return scores_MB.mean(dim=0)
    if combine == "wco":
        return scores_MB.min(dim=0).values
    if combine == "uwo":
        return scores_MB.mean(dim=0) - weight * scores_MB.var(dim=0, unbiased=False)
    raise ValueError(f"no way to combine {combine!r}")


def disagreement(scores_MB: Tensor) -> Tensor:
    """[B] standard deviation over the members (population); 0 for an ensemble of one."""
    _check(scores_MB)
    return scores_MB.std(dim=0, unbiased=False)


def pair_agreement(margins_MB: Tensor) -> float:
    """How often two members agree on a comparison's winner, over all pairs of members.

    `margins_MB`: chosen minus rejected score. An ensemble of one agrees with itself: 1.
    """
    _check(margins_MB)
    signs_MB = torch.sign(margins_MB)
    members = margins_MB.shape[0]
    if members == 1:
        return 1.0
    first, second = torch.triu_indices(members, members, offset=1)
    return float((signs_MB[first] == signs_MB[second]).double().mean())


def _check(scores_MB: Tensor) -> None:
    check_rank(2, scores_MB=scores_MB)
    check_floating(scores_MB=scores_MB)
    if 0 in scores_MB.shape:
        raise ValueError("an ensemble needs one member or more, and scores")
