"""What each token earned: rewards per token, their sums to the end, and GAE.

Packed layout, as everywhere: `lengths_B` [B] says how many of the [T] tokens each sequence has,
`mask_T` is 1 where the policy chose the token. Tokens of an environment between them take no
action: value and advantage pass over them unchanged, so that to the arithmetic they are not there.
They get 0. Nothing comes after a sequence's last chosen token, cut off or not: its next value is 0.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from posttrain.ops.checks import check_floating, check_rank, check_same_shape
from posttrain.ops.masked import sequence_indices


@torch.no_grad()
def token_rewards(
    scores_B: Tensor, kl_T: Tensor, kl_coefficient: float, lengths_B: Tensor, mask_T: Tensor
) -> Tensor:
    """[T] fp32: -β·kl of each chosen token, and the score once, on the last of them.

    (Ziegler et al. 2019, arXiv 1909.08593, eq. 2, token by token.) A sequence in which the policy
    chose no token has no place for its score, and earns nothing.
    """
    check_same_shape(kl_T=kl_T, mask_T=mask_T)
    check_same_shape(scores_B=scores_B, lengths_B=lengths_B)
    check_floating(scores_B=scores_B, kl_T=kl_T)
    layout = _layout(lengths_B, mask_T)
    charges_N = -kl_coefficient * kl_T.float()[layout.chosen_T]
    is_last_N = layout.column_N == layout.counts_B[layout.row_N] - 1
    rewards_N = charges_N + torch.where(is_last_N, scores_B.float()[layout.row_N], 0.0)
    return layout.packed(rewards_N)


@torch.no_grad()
def to_go(values_T: Tensor, lengths_B: Tensor, mask_T: Tensor, gamma: float = 1.0) -> Tensor:
    """[T] fp32: Σ over the chosen tokens s from t to the end of γ^(s-t)·value_s.

    Of a mask, with γ = 1, it is how many tokens are left, this one included.
    """
    check_same_shape(values_T=values_T, mask_T=mask_T)
    layout = _layout(lengths_B, mask_T)
    return layout.packed_rows(_discounted(layout.rows(values_T), gamma))


@torch.no_grad()
def generalised_advantages(
    rewards_T: Tensor,
    values_T: Tensor,
    lengths_B: Tensor,
    mask_T: Tensor,
    *,
    gamma: float = 1.0,
    gae_lambda: float = 0.95,
) -> tuple[Tensor, Tensor]:
    """(advantages [T], returns [T]) fp32, detached (GAE: Schulman et al. 2016, arXiv 1506.02438).

        δ_t = r_t + γ·V_{t+1} - V_t        A_t = δ_t + γλ·A_{t+1}        R_t = A_t + V_t

    `values_T` is V before each token; behind the last one V and A are 0. λ = 1 gives what was
    earned minus V, λ = 0 the one-step error.
    """
    check_same_shape(rewards_T=rewards_T, values_T=values_T, mask_T=mask_T)
    check_floating(rewards_T=rewards_T, values_T=values_T)
    layout = _layout(lengths_B, mask_T)
    values_BL = layout.rows(values_T)
    next_BL = torch.cat([values_BL[:, 1:], torch.zeros_like(values_BL[:, :1])], dim=1)
    errors_BL = layout.rows(rewards_T) + gamma * next_BL - values_BL
    advantages_BL = _discounted(errors_BL, gamma * gae_lambda)
    returns_BL = advantages_BL + values_BL
    return layout.packed_rows(advantages_BL), layout.packed_rows(returns_BL)


class _Layout(NamedTuple):
    """Where the N chosen tokens of a packed row stand in a matrix with a row per sequence."""

    chosen_T: Tensor  # [T] bool
    counts_B: Tensor  # [B] chosen tokens of each sequence
    row_N: Tensor
    column_N: Tensor

    def rows(self, values_T: Tensor) -> Tensor:
        """[B, L] fp32, zeros behind each sequence's end; L is 1 or more."""
        longest = int(self.counts_B.max()) if self.counts_B.numel() else 0
        rows_BL = torch.zeros(len(self.counts_B), max(longest, 1), device=values_T.device)
        rows_BL[self.row_N, self.column_N] = values_T.float()[self.chosen_T]
        return rows_BL

    def packed_rows(self, values_BL: Tensor) -> Tensor:
        return self.packed(values_BL[self.row_N, self.column_N])

    def packed(self, values_N: Tensor) -> Tensor:
        packed_T = torch.zeros(self.chosen_T.shape, device=values_N.device)
        packed_T[self.chosen_T] = values_N
        return packed_T


def _layout(lengths_B: Tensor, mask_T: Tensor) -> _Layout:
    check_rank(1, lengths_B=lengths_B, mask_T=mask_T)
    if int(lengths_B.sum()) != mask_T.numel():
        raise ValueError(f"lengths_B adds up to {int(lengths_B.sum())}, mask_T has {len(mask_T)}")
    chosen_T = mask_T > 0
    row_N = sequence_indices(lengths_B)[chosen_T]
    counts_B = torch.bincount(row_N, minlength=len(lengths_B))
    before_B = counts_B.cumsum(0) - counts_B
    column_N = torch.arange(len(row_N), device=row_N.device) - before_B[row_N]
    return _Layout(chosen_T, counts_B, row_N, column_N)


def _discounted(values_BL: Tensor, factor: float) -> Tensor:
    """[B, L] x_t + factor·(x_{t+1} + factor·(...)) along each row."""
    sums_BL = torch.zeros_like(values_BL)
    running_B = torch.zeros_like(values_BL[:, 0])
    for column in reversed(range(values_BL.shape[1])):
        running_B = values_BL[:, column] + factor * running_B
        sums_BL[:, column] = running_B
    return sums_BL
