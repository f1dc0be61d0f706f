"""Contrast Instructions: does a reward model notice what was asked, or only what is well said?

Two prompts I₁ and I₂ that are much alike and want different answers r₁ and r₂ (Shen et al. 2023,
"The Trickle-down Impact of Reward (In-)consistency on RLHF", arXiv 2309.16155):

    C_res = 1/2·{1[R(I₁, r₁) > R(I₁, r₂)] + 1[R(I₂, r₂) > R(I₂, r₁)]}     which answer fits
    C_ins = 1/2·{1[R(I₁, r₁) > R(I₂, r₁)] + 1[R(I₂, r₂) > R(I₁, r₂)]}     what it was asked for

averaged over pairs of prompts. A tie counts half, as in the accuracy on comparisons: chance is .5.
"""

from __future__ import annotations

import torch
from torch import Tensor

from posttrain.ops.checks import check_floating, check_rank
from posttrain.ops.preferences import pairs_right

LOWEST, HIGHEST = 0.75, 0.9
"""Cosines of prompts that are alike and not the same (the paper's, of SimCSE embeddings)."""


def contrast_pairs(
    cosine_NN: Tensor, may_pair_NN: Tensor, lowest: float = LOWEST, highest: float = HIGHEST
) -> list[tuple[int, int]]:
    """Each row with the one most like it among those within the bounds that it may be paired with;
    each pair once, (smaller, larger) row.
    """
    check_rank(2, cosine_NN=cosine_NN, may_pair_NN=may_pair_NN)
    if not cosine_NN.numel():
        return []
    within_NN = may_pair_NN & (cosine_NN >= lowest) & (cosine_NN <= highest)
    within_NN = within_NN & ~torch.eye(len(cosine_NN), dtype=torch.bool)
    best_N = cosine_NN.masked_fill(~within_NN, -torch.inf).argmax(dim=1)
    rows_C = within_NN.any(dim=1).nonzero().flatten()
    both_C2 = torch.stack([rows_C, best_N[rows_C]], dim=1).sort(dim=1).values
    return sorted({(one, two) for one, two in both_C2.tolist()})


def response_consistency(scores_P22: Tensor) -> float:
    """C_res of scores [pair, prompt, answer]: R(I_a, r_b) is `scores_P22[:, a, b]`."""
    _check(scores_P22)
    diagonal_P2 = scores_P22.diagonal(dim1=1, dim2=2)
    return pairs_right((diagonal_P2 - _crosswise(scores_P22)).flatten())


def instruction_consistency(scores_P22: Tensor) -> float:
    """C_ins of the same scores."""
    _check(scores_P22)
    diagonal_P2 = scores_P22.diagonal(dim1=1, dim2=2)
    return pairs_right((diagonal_P2 - _crosswise(scores_P22).flip(1)).flatten())


def _crosswise(scores_P22: Tensor) -> Tensor:
    """[P, 2] R(I₁, r₂) and R(I₂, r₁)."""
    return torch.stack([scores_P22[:, 0, 1], scores_P22[:, 1, 0]], dim=1)


def _check(scores_P22: Tensor) -> None:
    check_rank(3, scores_P22=scores_P22)
    check_floating(scores_P22=scores_P22)
    if scores_P22.shape[1:] != (2, 2) or not len(scores_P22):
        raise ValueError("scores of two prompts with two answers each, and one pair or more")
