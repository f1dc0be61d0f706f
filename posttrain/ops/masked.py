"""Means over the tokens that count, and how token losses become one number.

Packed layout: completion tokens of all sequences in one flat row, `sequence_T` saying whose each
is.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from posttrain.ops.checks import check_rank, check_same_shape

Aggregation = Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum"]
"""token-mean: every token weighs the same (DAPO). seq-mean-token-mean: every answer weighs the
same, whatever its length (GRPO). seq-mean-token-sum: the plain policy-gradient estimator
(REINFORCE)."""


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask` is not 0; 0 where the mask is empty. Any shape."""
    check_same_shape(values=values, mask=mask)
    mask = mask.to(values.dtype)
    return (values * mask).sum() / mask.sum().clamp(min=1.0)


def sequence_sums(values_T: Tensor, sequence_T: Tensor, num_sequences: int) -> Tensor:
    """[B] sum of a packed row per sequence; sequences without tokens get 0."""
    check_same_shape(values_T=values_T, sequence_T=sequence_T)
    sums = torch.zeros(num_sequences, dtype=values_T.dtype, device=values_T.device)
    return sums.index_add(0, sequence_T, values_T)


def aggregate(
    losses_T: Tensor,
    mask_T: Tensor,
    sequence_T: Tensor,
    num_sequences: int,
    mode: Aggregation,
    *,
    total_tokens: float,
    total_sequences: float,
) -> Tensor:
    """Scalar: one micro-batch's share of the whole optimiser batch's loss.

    `total_tokens` and `total_sequences` (those with at least one masked-in token) count the whole
    optimiser batch over all ranks, so that micro-batches add up to what one big batch gives. A
    sequence must lie in one micro-batch whole.
    """
    check_rank(1, losses_T=losses_T)
    check_same_shape(losses_T=losses_T, mask_T=mask_T, sequence_T=sequence_T)
    mask_T = mask_T.to(losses_T.dtype)
    # Not `losses * mask`: an infinity at a masked token would become NaN.
    losses_T = torch.where(mask_T > 0, losses_T, torch.zeros_like(losses_T))
    if mode == "token-mean":
        return losses_T.sum() / max(total_tokens, 1.0)
    if mode == "seq-mean-token-sum":
        return losses_T.sum() / max(total_sequences, 1.0)
    if mode == "seq-mean-token-mean":
        sums_B = sequence_sums(losses_T, sequence_T, num_sequences)
        counts_B = sequence_sums(mask_T, sequence_T, num_sequences)
        return (sums_B / counts_B.clamp(min=1.0)).sum() / max(total_sequences, 1.0)
    raise ValueError(f"no aggregation {mode!r}")
