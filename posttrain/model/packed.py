"""Log-probabilities and values of many sequences in one forward pass, without padding."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from posttrain import ops


@dataclass(frozen=True, slots=True)
class PackedOutput:
    """What one forward pass says of the wanted tokens, in their order."""

    logprobs_N: Tensor  # [N] fp32, nats
    entropies_N: Tensor | None  # [N] fp32, nats, without gradient
    features_ND: Tensor | None = None  # [N, hidden size] last layer's, before each token


def packed_forward(
    model: Any,
    token_ids_T: Tensor,
    lengths: Sequence[int],
    temperature: float = 1.0,
    *,
    wanted_T: Tensor | None = None,
    entropy: bool = False,
    features: bool = False,
    autocast: torch.dtype | None = None,
) -> PackedOutput:
    """fp32 log-probs (nats) of tokens given what stands before them in their own sequence.

    `token_ids_T` holds the sequences one after another, `lengths` their token counts. `wanted_T`
    is True at the N tokens asked for; by default at all but each sequence's first, which nothing
    precedes. `autocast` runs the model in that number format. `entropy` and `features` ask for more
    of the same pass. Logits are computed for the wanted tokens only.
    """
    packed, wanted_N = _packed(token_ids_T, lengths, wanted_T)
    more = {"output_hidden_states": True} if features else {}
    with _autocast(token_ids_T.device, autocast):
        output = model(**packed, **more, logits_to_keep=wanted_N - 1)
    logits_NV = output.logits[0]
    return PackedOutput(
        ops.logprobs.selected_logprobs(logits_NV, token_ids_T[wanted_N], temperature),
        ops.logprobs.entropies(logits_NV.detach(), temperature) if entropy else None,
        output.hidden_states[-1][0, wanted_N - 1] if features else None,
    )


def packed_values(
    model: Any,
    token_ids_T: Tensor,
    lengths: Sequence[int],
    wanted_T: Tensor,
    autocast: torch.dtype | None = None,
) -> Tensor:
    """[N] fp32: what a sequence-classification model with one label says before each wanted token.

    Layout as in `packed_forward`.
    """
    packed, wanted_N = _packed(token_ids_T, lengths, wanted_T)
    with _autocast(token_ids_T.device, autocast):
        return model(**packed, wanted_N=wanted_N - 1).float()


def packed_inputs(token_ids_T: Tensor, lengths: Sequence[int]) -> dict[str, Any]:
    """What transformers calls packed inputs: one row, each sequence attends to itself alone."""
    device = token_ids_T.device
    lengths_B = torch.tensor(lengths, device=device)
    bounds = torch.nn.functional.pad(lengths_B.cumsum(0), (1, 0))
    starts_T = torch.repeat_interleave(bounds[:-1], lengths_B, output_size=len(token_ids_T))
    position_ids_T = torch.arange(len(token_ids_T), device=device) - starts_T
    cu_seq_lens = bounds.to(torch.int32)
    longest = max(lengths, default=0)
    return {
        "input_ids": token_ids_T[None],
        "position_ids": position_ids_T[None],
        "cu_seq_lens_q": cu_seq_lens,
        "cu_seq_lens_k": cu_seq_lens,
        "max_length_q": longest,
        "max_length_k": longest,
        "use_cache": False,
    }


def _packed(
    token_ids_T: Tensor, lengths: Sequence[int], wanted_T: Tensor | None
) -> tuple[dict[str, Any], Tensor]:
    """(packed inputs, [N] where the wanted tokens stand)."""
    packed = packed_inputs(token_ids_T, lengths)
    follows_T = packed["position_ids"][0] > 0
    wanted_T = follows_T if wanted_T is None else wanted_T & follows_T
    return packed, wanted_T.nonzero().flatten()


def _autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)
