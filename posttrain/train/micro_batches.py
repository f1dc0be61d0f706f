"""A batch, cut into optimiser steps, and those into this rank's forward passes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from posttrain.train.packing import allocate, share_out
from posttrain.train.rl_batch import FlatBatch, Sequences


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Some sequences packed into one row of `S` tokens, `T` of them completion tokens."""

    token_ids_S: Tensor  # [S] int64
    lengths: tuple[int, ...]  # prompt and completion together
    wanted_S: Tensor  # [S] bool: completion tokens
    tokens_T: Tensor  # [T] where they lie among the completion tokens of the whole batch
    sequence_T: Tensor  # [T] which sequence of the micro-batch each belongs to, 0-based

    @property
    def num_sequences(self) -> int:
        return len(self.lengths)


@dataclass(frozen=True, slots=True)
class Part:
    """What one optimiser step is made of: some whole groups of the batch."""

    micro: list[MicroBatch]  # this rank's
    total_tokens: float  # that the policy chose, over all ranks
    total_sequences: float  # with at least one such token, over all ranks


def split(
    flat: FlatBatch, num_parts: int, cut: Callable[[Sequence[int]], list[MicroBatch]]
) -> list[Part]:
    """The batch in parts of as many groups as can be, in order; `cut` makes micro-batches of the
    sequences with the given indices.
    """
    num_groups, samples = flat.rewards_GK.shape
    bounds = [samples * (i * num_groups // num_parts) for i in range(num_parts + 1)]
    chosen_B = flat.chosen_tokens_B
    return [
        Part(
            micro=cut(range(begin, end)),
            total_tokens=float(chosen_B[begin:end].sum()),
            total_sequences=float((chosen_B[begin:end] > 0).sum()),
        )
        for begin, end in itertools.pairwise(bounds)
    ]


def micro_batches(
    sequences: Sequences, chosen: Sequence[int], budget_tokens: int, num_ranks: int, rank: int
) -> list[MicroBatch]:
    """This rank's share of the chosen sequences, packed by token budget.

    All ranks get the same number of micro-batches, with balanced token sums. Raises InputError
    where a sequence exceeds the budget or there are fewer sequences than ranks.
    """
    lengths_B = sequences.total_lengths_B
    lengths = lengths_B[torch.tensor(chosen)].tolist()
    bins = allocate(lengths, budget_tokens, bins_divisor=num_ranks)
    shares = share_out([sum(lengths[i] for i in members) for members in bins], num_ranks)
    return [pack(sequences, sorted(chosen[i] for i in bins[b])) for b in shares[rank]]


def pack(sequences: Sequences, chosen: Sequence[int]) -> MicroBatch:
    """The chosen sequences in one row, in the given order."""
    indices = torch.tensor(chosen)
    totals_B, answers_B = sequences.total_lengths_B, sequences.lengths_B
    picked_S = _spans(totals_B.cumsum(0)[indices] - totals_B[indices], totals_B[indices])
    ends_B = answers_B.cumsum(0)[indices]
    tokens_T = _spans(ends_B - answers_B[indices], answers_B[indices])
    positions_S = _spans(torch.zeros_like(indices), totals_B[indices])
    prompts_S = torch.repeat_interleave(sequences.prompt_lengths_B[indices], totals_B[indices])
    return MicroBatch(
        token_ids_S=sequences.token_ids_S[picked_S],
        lengths=tuple(totals_B[indices].tolist()),
        wanted_S=positions_S >= prompts_S,
        tokens_T=tokens_T,
        sequence_T=torch.repeat_interleave(torch.arange(len(chosen)), answers_B[indices]),
    )


def _spans(starts_B: Tensor, lengths_B: Tensor) -> Tensor:
    """start, start + 1, ... of each span, one span after another."""
    before_B = lengths_B.cumsum(0) - lengths_B
    return torch.arange(int(lengths_B.sum())) + torch.repeat_interleave(
        starts_B - before_B, lengths_B
    )
