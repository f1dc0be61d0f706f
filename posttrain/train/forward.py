"""A model on one micro-batch, at the sampling temperature and in the stage's number format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from posttrain.model.packed import packed_forward
from posttrain.train.micro_batches import MicroBatch


@dataclass(frozen=True, slots=True)
class TokenOutput:
    """Of a micro-batch's completion tokens. What is not the model's own lives on the CPU: it is
    small, and read there.
    """

    logprobs_T: Tensor  # [T] nats, CPU
    entropy_T: Tensor | None  # [T] nats, CPU, detached
    features_TD: Tensor | None  # [T, hidden size] the last layer before each token, on the device


@dataclass(frozen=True, slots=True)
class Forward:
    """`precision` bf16: fp32 weights, bf16 arithmetic."""

    temperature: float
    precision: str

    def __call__(
        self, model: Any, micro: MicroBatch, *, entropy: bool = False, features: bool = False
    ) -> TokenOutput:
        device = next(model.parameters()).device
        output = packed_forward(
            model,
            micro.token_ids_S.to(device),
            micro.lengths,
            self.temperature,
            wanted_T=micro.wanted_S.to(device),
            entropy=entropy,
            features=features,
            autocast=torch.bfloat16 if self.precision == "bf16" else None,
        )
        entropy_T = None if output.entropies_N is None else output.entropies_N.cpu()
        return TokenOutput(output.logprobs_N.cpu(), entropy_T, output.features_ND)

    def logprobs(self, model: Any, micro: MicroBatch) -> Tensor:
        """[T] nats, on the CPU."""
        return self(model, micro).logprobs_T
