"""TRL's SFT trainer on packed rows: micro-batches under a token budget, our metric names.

The whole optimiser batch arrives as one packed row, which is cut into smaller packed rows; TRL
divides each by the token count of the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from trl import SFTTrainer

from posttrain.train.packing import allocate
from posttrain.train.stage_trainer import StageTrainer


class PackedSftTrainer(StageTrainer, SFTTrainer):
    """See the module. `model`, `args`, `train_dataset`, ... are TRL's."""

    _trained_tokens = 0

    def micro_batches(self, inputs: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield from split_packed(inputs, self._budget)

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._trained_tokens = int(num_items_in_batch) if num_items_in_batch is not None else 0
        return loss

    def own_metrics(self, logs: Mapping[str, float], tokens: float) -> dict[str, float]:
        return {
            "train/real_token_share": 1.0,  # packed: no padding is ever computed
            "sft/trained_token_share": self._trained_tokens / max(tokens, 1),
        }


def split_packed(inputs: Mapping[str, Any], budget_tokens: int) -> Iterator[dict[str, Any]]:
    """Cut TRL's packed batch into packed batches of at most `budget_tokens`; sequences stay whole.

    `inputs`: input_ids, labels, position_ids [1, T] and cu_seq_lens_q [B + 1]. Raises InputError
    where one sequence exceeds the budget.
    """
    lengths = inputs["cu_seq_lens_q"].diff().tolist()
    bins = allocate(lengths, budget_tokens)
    if len(bins) == 1:
        yield dict(inputs)
        return
    spans = torch.arange(inputs["input_ids"].shape[1]).split(lengths)
    for members in bins:
        members = sorted(members)
        tokens_T = torch.cat([spans[i] for i in members]).to(inputs["input_ids"].device)
        chosen = torch.tensor([lengths[i] for i in members])
        bounds = torch.nn.functional.pad(chosen.cumsum(0), (1, 0)).to(inputs["cu_seq_lens_q"])
        longest = int(chosen.max())
        yield {
            "input_ids": inputs["input_ids"][:, tokens_T],
            "labels": inputs["labels"][:, tokens_T],
            "position_ids": inputs["position_ids"][:, tokens_T],
            "cu_seq_lens_q": bounds,
            "cu_seq_lens_k": bounds,
            "max_length_q": longest,
            "max_length_k": longest,
        }
