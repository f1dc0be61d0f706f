"""The frozen model that a stage starts from: its log-probs, and how far the policy has moved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from posttrain.train.micro_batches import MicroBatch
from posttrain.train.ranks import Ranks
from posttrain.train.reference_weights import Kept
from posttrain.train.rl_batch import FlatBatch

# Where the algorithm has no use for the log-probs, the distance is measured on a sixteenth of the
# answers, others each step: about 2 % of a step's time in place of 25 %.
SAMPLE_STRIDE = 16
SAMPLE_LEAST = 4


class Reference:
    """Held for every algorithm: how far the policy has moved is the first thing people ask."""

    def __init__(
        self, weights: Any, ranks: Ranks, forward: Callable[[Any, MicroBatch], Tensor]
    ) -> None:
        """`weights` is a model, which is kept as it is, or a `ReferenceWeights`. `forward` gives a
        model's log-probs [T] of a micro-batch.
        """
        self._weights = Kept(weights) if isinstance(weights, torch.nn.Module) else weights
        self._ranks = ranks
        self._forward = forward
        self._weights.spread(ranks)

    @torch.no_grad()
    def logprobs(self, flat: FlatBatch, micro: Sequence[MicroBatch], what: str) -> Tensor:
        """[T] nats, on every rank all that are in the ranks' micro-batches, 0 elsewhere."""
        logprobs_T = torch.zeros_like(flat.behaviour_logprobs_T)
        with self._weights.ready() as model:
            for piece in micro:
                logprobs_T[piece.tokens_T] = self._forward(model, piece)
        return self._ranks.all_reduce_sum(logprobs_T, f"reference log-probs of {what}")


def sample(num_sequences: int, step: int, num_ranks: int) -> range:
    """Evenly spread answers, others each step: a sixteenth, but 4, and one per rank, at least.

    Example: sample(256, 3, 1) is 3, 19, 35, ..., 243.
    """
    least = min(num_sequences, max(SAMPLE_LEAST, num_ranks))
    stride = max(1, min(SAMPLE_STRIDE, num_sequences // least))
    return range(step % stride, num_sequences, stride)


def distance_nats(flat: FlatBatch, reference_T: Tensor, chosen: range) -> float:
    """Log-probs' differences (k1) summed over an answer, their mean over the chosen answers."""
    difference_T = (flat.behaviour_logprobs_T - reference_T) * flat.mask_T
    sums_B = torch.zeros(len(flat.rollouts)).index_add(0, flat.sequence_T, difference_T)
    return float(sums_B[torch.tensor(chosen)].double().mean())
