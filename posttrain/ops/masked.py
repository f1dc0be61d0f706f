"""Means over the tokens that count, and how token losses become one number.

Packed layout: completion tokens of all sequences in one flat row, `sequence_T` saying whose each
is.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from posttrain.ops.checks import check_floating, check_rank, check_same_shape

Aggregation = Literal[
    "token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm"
]
"""token-mean: every token weighs the same (DAPO). seq-mean-token-mean: every answer weighs the
same, whatever its length (GRPO). seq-mean-token-sum: the plain policy-gradient estimator
(REINFORCE). seq-mean-token-sum-norm: that, divided by a constant, the token limit of an answer
(Dr. GRPO)."""


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask` is not 0; 0 where the mask is empty. Any shape."""
    check_same_shape(values=values, mask=mask)
    mask = mask.to(values.dtype)
    return (values * mask).sum() / mask.sum().clamp(min=1.0)


def _visible(values: Tensor, mask: Tensor) -> Tensor:
    """Not `values * mask`: an infinity at a masked place would become NaN."""
    return torch.where(mask != 0, values, torch.zeros_like(values))


def masked_variance(values: Tensor, mask: Tensor) -> Tensor:
    """Unbiased variance (divided by n - 1) where `mask` is not 0; 0 for fewer than two. Any shape.

    The differences from the mean are squared, not the values: those would cancel in fp32.
    """
    centred = values - masked_mean(_visible(values, mask), mask)
    num = (mask != 0).sum()
    return _visible(centred.square(), mask).sum() / (num - 1).clamp(min=1)


def whiten(values: Tensor, mask: Tensor, *, shift_mean: bool = True) -> Tensor:
    """(x - μ)/√(var + 1e-8) over what `mask` lets through, 0 elsewhere. Any shape.

    μ and the unbiased variance are of the whole tensor: whiten before any split over ranks.
    `shift_mean=False` adds μ back, so that sparse rewards keep their sign. Degenerate cases: equal
    values give 0 (or μ), and so does a single one.
    """
    check_same_shape(values=values, mask=mask)
    check_floating(values=values)
    values = _visible(values.float(), mask)
    # From the first visible value on: the mean of equal values is rounded, and what is left of it
    # would be scaled up ten thousand times.
    first = values[mask > 0].flatten()[:1].sum()
    offsets = _visible(values - first, mask)
    mean = masked_mean(offsets, mask)
    scaled = (offsets - mean) * torch.rsqrt(masked_variance(offsets, mask) + 1e-8)
    return _visible(scaled if shift_mean else scaled + mean + first, mask)


def sequence_indices(lengths_B: Tensor) -> Tensor:
    """[T] which sequence each token of a packed row belongs to."""
    indices_B = torch.arange(len(lengths_B), device=lengths_B.device)
    return indices_B.repeat_interleave(lengths_B)


def sequence_sums(values_T: Tensor, sequence_T: Tensor, num_sequences: int) -> Tensor:
    """[B] sum of a packed row per sequence; sequences without tokens get 0."""
    check_same_shape(values_T=values_T, sequence_T=sequence_T)
    sums = torch.zeros(num_sequences, dtype=values_T.dtype, device=values_T.device)
    return sums.index_add(0, sequence_T, values_T)


def sequence_means(
    values_T: Tensor, mask_T: Tensor, sequence_T: Tensor, num_sequences: int
) -> Tensor:
    """[B] mean over each sequence's masked-in tokens; sequences without any get 0."""
    check_same_shape(values_T=values_T, mask_T=mask_T)
    sums_B = sequence_sums(_visible(values_T, mask_T), sequence_T, num_sequences)
    counts_B = sequence_sums(mask_T.to(values_T.dtype), sequence_T, num_sequences)
    return sums_B / counts_B.clamp(min=1.0)


def aggregate(
    losses_T: Tensor,
    mask_T: Tensor,
    sequence_T: Tensor,
    num_sequences: int,
    mode: Aggregation,
    *,
    total_tokens: float,
    total_sequences: float,
    max_new_tokens: int = 0,
) -> Tensor:
    """Scalar: one micro-batch's share of the whole optimiser batch's loss.

    `total_tokens` and `total_sequences` (those with at least one masked-in token) count the whole
    optimiser batch over all ranks, so that micro-batches add up to what one big batch gives. A
    sequence must lie in one micro-batch whole. `max_new_tokens` is the constant that
    seq-mean-token-sum-norm divides by.
    """
    check_rank(1, losses_T=losses_T)
    check_same_shape(losses_T=losses_T, mask_T=mask_T, sequence_T=sequence_T)
    mask_T = mask_T.to(losses_T.dtype)
    losses_T = _visible(losses_T, mask_T)
    if mode == "token-mean":
        return losses_T.sum() / max(total_tokens, 1.0)
    if mode == "seq-mean-token-sum":
        return losses_T.sum() / max(total_sequences, 1.0)
    if mode == "seq-mean-token-mean":
        means_B = sequence_means(losses_T, mask_T, sequence_T, num_sequences)
        return means_B.sum() / max(total_sequences, 1.0)
    if mode == "seq-mean-token-sum-norm":
        if max_new_tokens < 1:
            raise ValueError(f"{mode} divides by max_new_tokens, which is {max_new_tokens}")
        return losses_T.sum() / max(total_sequences, 1.0) / max_new_tokens
    raise ValueError(f"no aggregation {mode!r}")
