"""Log-probabilities of chosen tokens, and entropies, from logits.

log p(y) = z_y/τ - logsumexp(z/τ): the full log-softmax [T, V] is never written. Everything is fp32,
because a bf16 log-softmax is off by more than the ratios that reinforcement learning clips.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from posttrain.ops.checks import check_floating, check_rank, check_same_shape


def selected_logprobs(
    logits_TV: Tensor, token_ids_T: Tensor, temperature: float = 1.0, chunk_tokens: int = 2048
) -> Tensor:
    """[T] fp32 log-probabilities (nats) of `token_ids_T` under softmax(logits / temperature).

    `logits_TV[t]` is the row that predicts `token_ids_T[t]`: the caller has shifted. Where scaling
    or casting copies the logits, only `chunk_tokens` rows are copied at a time, and again for
    backward.
    """
    _check(logits_TV, token_ids_T, temperature)
    copies = logits_TV.dtype != torch.float32 or temperature != 1.0
    again = copies and torch.is_grad_enabled() and logits_TV.requires_grad
    parts = []
    for logits, ids in zip(
        logits_TV.split(chunk_tokens), token_ids_T.split(chunk_tokens), strict=True
    ):
        if again:
            part = checkpoint(_selected, logits, ids, temperature, use_reentrant=False)
        else:
            part = _selected(logits, ids, temperature)
        parts.append(part)
    return torch.cat(parts)


@torch.no_grad()
def entropies(logits_TV: Tensor, temperature: float = 1.0, chunk_tokens: int = 2048) -> Tensor:
    """[T] fp32 entropy (nats) of softmax(logits / temperature), without gradient."""
    check_rank(2, logits_TV=logits_TV)
    parts = []
    for logits in logits_TV.split(chunk_tokens):
        scaled = logits.float() / temperature
        total = torch.logsumexp(scaled, dim=-1)
        parts.append(total - (torch.exp(scaled - total[:, None]) * scaled).sum(dim=-1))
    return torch.cat(parts)


def _selected(logits_TV: Tensor, token_ids_T: Tensor, temperature: float) -> Tensor:
    scaled = logits_TV.float()
    if temperature != 1.0:
        scaled = scaled / temperature
    chosen = scaled.gather(-1, token_ids_T[:, None])[:, 0]
    return chosen - torch.logsumexp(scaled, dim=-1)


def _check(logits_TV: Tensor, token_ids_T: Tensor, temperature: float) -> None:
    check_rank(2, logits_TV=logits_TV)
    check_rank(1, token_ids_T=token_ids_T)
    check_same_shape(token_ids_T=token_ids_T, logits_rows=logits_TV[:, 0])
    check_floating(logits_TV=logits_TV)
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; log-probabilities need more than 0")
