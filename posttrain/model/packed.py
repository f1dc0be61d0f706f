"""Log-probabilities of many sequences in one forward pass, without padding."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from posttrain import ops


def packed_forward(
    model: Any,
    token_ids_T: Tensor,
    lengths: Sequence[int],
    temperature: float = 1.0,
    *,
    wanted_T: Tensor | None = None,
    entropy: bool = False,
    autocast: torch.dtype | None = None,
) -> tuple[Tensor, Tensor | None]:
    """fp32 log-probs (nats) of tokens given what stands before them in their own sequence.

    `token_ids_T` holds the sequences one after another, `lengths` their token counts. `wanted_T`
    is True at the N tokens asked for; by default at all but each sequence's first, which nothing
    precedes. `autocast` runs the model in that number format.
    Returns ([N] log-probs in the tokens' order, [N] entropies in nats without gradient, or None).
    Logits are computed for the wanted tokens only.
    """
    device = token_ids_T.device
    lengths_B = torch.tensor(lengths, device=device)
    bounds = torch.nn.functional.pad(lengths_B.cumsum(0), (1, 0))
    starts_T = torch.repeat_interleave(bounds[:-1], lengths_B, output_size=len(token_ids_T))
    position_ids_T = torch.arange(len(token_ids_T), device=device) - starts_T
    wanted_T = position_ids_T > 0 if wanted_T is None else wanted_T & (position_ids_T > 0)
    wanted_N = wanted_T.nonzero().flatten()
    cu_seq_lens = bounds.to(torch.int32)
    longest = max(lengths, default=0)
    with _autocast(device, autocast):
        logits_NV = model(
            input_ids=token_ids_T[None],
            position_ids=position_ids_T[None],
            cu_seq_lens_q=cu_seq_lens,
            cu_seq_lens_k=cu_seq_lens,
            max_length_q=longest,
            max_length_k=longest,
            use_cache=False,
            logits_to_keep=wanted_N - 1,
        ).logits[0]
    logprobs_N = ops.logprobs.selected_logprobs(logits_NV, token_ids_T[wanted_N], temperature)
    entropies_N = ops.logprobs.entropies(logits_NV.detach(), temperature) if entropy else None
    return logprobs_N, entropies_N


def _autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)
