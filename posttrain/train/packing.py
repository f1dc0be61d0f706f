"""Dynamic micro-batches: sequences of unequal length under one token budget.

Algorithm 1 of AReaL (Fu et al. 2025, arXiv 2505.24298): longest first, into the open micro-batch
with the fewest sequences that still has room; a new one only where none has.
"""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.errors import InputError, Problem


def allocate(
    lengths: Sequence[int], budget_tokens: int, *, min_bins: int = 1, bins_divisor: int = 1
) -> list[list[int]]:
    """Indices of the sequences of each micro-batch, in the order in which they were put there.

    `min_bins` is what every rank must reach, so that all run the same number of micro-batches;
    `bins_divisor` raises the number to a multiple of itself. Raises InputError where a sequence
    alone exceeds the budget or there are fewer sequences than micro-batches asked for.

    Example: lengths 9 7 5 4 3 2, budget 12 -> sums {9, 2} {7, 5} {4, 3}.
    """
    _check(lengths, budget_tokens, min_bins)
    wanted = min_bins
    while True:
        bins = _fill(lengths, budget_tokens, wanted)
        if len(bins) % bins_divisor == 0:
            return bins
        wanted = len(bins) + bins_divisor - len(bins) % bins_divisor
        _check(lengths, budget_tokens, wanted)


def share_out(sums_tokens: Sequence[int], num_ranks: int) -> list[list[int]]:
    """Indices of each rank's micro-batches: the same number for all, their token sums balanced.

    Largest first, to the rank with the least tokens that still may take one. ValueError where their
    number is no multiple of the number of ranks.

    Example: sums 9 7 5 4, two ranks -> {9, 4} {7, 5}.
    """
    if len(sums_tokens) % num_ranks:
        raise ValueError(f"{len(sums_tokens)} micro-batches cannot be shared by {num_ranks} ranks")
    each = len(sums_tokens) // num_ranks
    shares: list[list[int]] = [[] for _ in range(num_ranks)]
    loads = [0] * num_ranks
    for index in sorted(range(len(sums_tokens)), key=lambda i: -sums_tokens[i]):
        rank = min((r for r in range(num_ranks) if len(shares[r]) < each), key=lambda r: loads[r])
        shares[rank].append(index)
        loads[rank] += sums_tokens[index]
    return [sorted(share) for share in shares]


def _fill(lengths: Sequence[int], budget_tokens: int, min_bins: int) -> list[list[int]]:
    bins: list[list[int]] = []
    sums: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[index]
        room = [b for b in range(len(bins)) if sums[b] + length <= budget_tokens]
        if len(bins) < min_bins or not room:
            bins.append([index])
            sums.append(length)
            continue
        chosen = min(room, key=lambda b: (len(bins[b]), sums[b]))
        bins[chosen].append(index)
        sums[chosen] += length
    return bins


def _check(lengths: Sequence[int], budget_tokens: int, min_bins: int) -> None:
    if lengths and max(lengths) > budget_tokens:
        raise InputError(
            Problem(
                "micro-batch-too-small",
                f"one sequence has {max(lengths)} tokens, a micro-batch holds {budget_tokens}",
                path="batch.tokens_per_micro_batch",
                help=f"tokens_per_micro_batch: {max(lengths)} or more",
            )
        )
    if len(lengths) < min_bins:
        raise InputError(
            Problem(
                "batch-too-small",
                f"{len(lengths)} sequences cannot fill {min_bins} micro-batches",
                path="batch",
                help="more rows per step, or fewer trainers",
            )
        )
