"""Attention for packed batches: many sequences in one row of tokens, none of them padded.

One sdpa call over the whole row costs the square of its length; a call per sequence costs a call
per sequence. Here the sequences are sorted by length and gathered into a few right-padded buckets
of similar length. A bucket needs no mask: a real query of a right-padded row sees, under causal
attention, real keys only. The result equals padded attention to rounding, forward and backward.

Registered with transformers under the name `PACKED`; works with every model that takes its
attention from there, and through TRL's `padding_free`. Batches that are not packed (several rows,
a cache, an attention mask) fall through to transformers' own sdpa.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PACKED = "posttrain_packed"
MAX_WASTE = 0.25  # share of a bucket that may be padding
SMALL_WASTE_TOKENS = 512  # less padding than this never opens a bucket: the call would cost more


@dataclass(frozen=True, slots=True)
class PackingPlan:
    """How the `T` tokens of a packed row go into buckets that hold `P >= T` slots together."""

    buckets: tuple[tuple[int, int], ...]  # (rows, tokens per row)
    slot_token_P: Tensor  # [P] which token fills each slot; padding slots repeat a real one
    token_slot_T: Tensor  # [T] the slot of each token
    padding_slots: Tensor  # slots that hold padding


def make_buckets(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of the sequences, longest first, cut into buckets with little padding.

    Example: make_buckets([3, 900, 4, 880]) == [[1, 3], [2, 0]]
    """
    buckets: list[list[int]] = []
    waste = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if buckets:
            longest = lengths[buckets[-1][0]]
            waste += longest - lengths[index]
            limit = max(MAX_WASTE * longest * (len(buckets[-1]) + 1), SMALL_WASTE_TOKENS)
            if waste <= limit and longest - lengths[index] <= SMALL_WASTE_TOKENS:
                buckets[-1].append(index)
                continue
        buckets.append([index])
        waste = 0
    return buckets


def make_plan(lengths: Sequence[int], device: torch.device | str = "cpu") -> PackingPlan:
    """The plan for sequences of these lengths, which lie one after another in the row."""
    lengths_B = torch.tensor(lengths, dtype=torch.long)
    starts_B = lengths_B.cumsum(0) - lengths_B
    shapes, slot_tokens, padding = [], [], []
    for members in make_buckets(lengths):
        rows = torch.tensor(members)
        width = int(lengths_B[rows[0]])
        column = torch.arange(width)[None, :]
        real = column < lengths_B[rows][:, None]
        last = (lengths_B[rows] - 1).clamp(min=0)[:, None]
        slot_tokens.append((starts_B[rows][:, None] + torch.minimum(column, last)).flatten())
        padding.append(~real.flatten())
        shapes.append((len(members), width))
    slot_token_P, is_padding = torch.cat(slot_tokens), torch.cat(padding)
    token_slot_T = torch.empty(int(lengths_B.sum()), dtype=torch.long)
    real_slots = (~is_padding).nonzero().flatten()
    token_slot_T[slot_token_P[real_slots]] = real_slots
    return PackingPlan(
        tuple(shapes),
        slot_token_P.to(device),
        token_slot_T.to(device),
        is_padding.nonzero().flatten().to(device),
    )


class _Unpack(torch.autograd.Function):
    """Tokens to slots. Every token has one real slot, so the backward pass is a gather as well.

    (Autograd's own backward of a gather is a scatter-add, row by row on CPUs: ten times slower.)
    """

    @staticmethod
    def forward(ctx: Any, tokens_T: Tensor, plan: PackingPlan) -> Tensor:
        ctx.plan = plan
        return tokens_T.index_select(0, plan.slot_token_P)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # padding slots carry no gradient: their outputs are dropped and no real query sees them
        return gradients[0].index_select(0, ctx.plan.token_slot_T), None


class _Repack(torch.autograd.Function):
    """Slots back to tokens; what padding slots hold is dropped."""

    @staticmethod
    def forward(ctx: Any, slots_P: Tensor, plan: PackingPlan) -> Tensor:
        ctx.plan = plan
        return slots_P.index_select(0, plan.token_slot_T)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        slots_P = gradients[0].index_select(0, ctx.plan.slot_token_P)
        return slots_P.index_fill_(0, ctx.plan.padding_slots, 0), None


class _LastPlan:
    """All layers of one forward pass see the same boundaries: plan them once."""

    def __init__(self) -> None:
        self._key: weakref.ref[Tensor] | None = None
        self._plan: PackingPlan | None = None

    def get(self, boundaries: Tensor, lengths_of: Any) -> PackingPlan:
        if self._plan is None or self._key is None or self._key() is not boundaries:
            self._plan = make_plan(lengths_of(boundaries), boundaries.device)
            self._key = weakref.ref(boundaries)
        return self._plan


_last_plan = _LastPlan()


def _lengths_from_positions(position_ids: Tensor) -> list[int]:
    """A sequence starts wherever the position is 0."""
    starts = (position_ids.flatten() == 0).nonzero().flatten().tolist()
    ends = [*starts[1:], position_ids.numel()]
    return [end - start for start, end in zip(starts, ends, strict=True)]


def _lengths_from_bounds(cu_seq_lens: Tensor) -> list[int]:
    return [int(n) for n in cu_seq_lens.diff().tolist()]


def _plan_for(kwargs: dict[str, Any], num_tokens: int, device: torch.device) -> PackingPlan:
    bounds, positions = kwargs.get("cu_seq_lens_q"), kwargs.get("position_ids")
    if bounds is not None:
        return _last_plan.get(bounds, _lengths_from_bounds)
    if positions is not None:
        return _last_plan.get(positions, _lengths_from_positions)
    return make_plan([num_tokens], device)


def _window_mask(width: int, window: int | None, device: torch.device) -> Tensor | None:
    """[width, width] True where a query may look, for sliding windows shorter than the row."""
    if window is None or width <= window:
        return None
    distance = torch.arange(width, device=device)[:, None] - torch.arange(width, device=device)
    return (distance >= 0) & (distance < window)


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Transformers' attention signature; `query` is [1, H, T, D], `key` and `value` [1, KV, T, D].

    Returns ([1, T, H, D], None).
    """
    packed = query.shape[0] == 1 and attention_mask is None and query.shape[2] == key.shape[2]
    if not packed or not kwargs.get("is_causal", getattr(module, "is_causal", True)):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    plan = _plan_for(kwargs, query.shape[2], query.device)
    counts = [len_rows * width for len_rows, width in plan.buckets]
    slots = [_Unpack.apply(x[0].transpose(0, 1), plan).split(counts) for x in (query, key, value)]
    outputs = []
    for (num_rows, width), *parts in zip(plan.buckets, *slots, strict=True):
        q, k, v = (x.unflatten(0, (num_rows, width)).transpose(1, 2) for x in parts)
        mask = _window_mask(width, sliding_window, query.device)
        out = torch.nn.functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            dropout_p=dropout,
            scale=scaling,
            is_causal=mask is None,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        outputs.append(out.transpose(1, 2).flatten(0, 1))
    packed_out = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return _Repack.apply(packed_out, plan)[None], None


def packed_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    attention_mask: Tensor | None = None,
    **kwargs: Any,
) -> Tensor | None:
    """No mask for packed rows, where `packed_attention` knows the boundaries; sdpa's otherwise."""
    if batch_size == 1 and q_length == kv_length and attention_mask is None:
        return None
    return sdpa_mask(batch_size, q_length, kv_length, attention_mask=attention_mask, **kwargs)


def register_packed_attention() -> str:
    """Make the name known to transformers (again and again does no harm); returns the name."""
    AttentionInterface.register(PACKED, packed_attention)
    AttentionMaskInterface.register(PACKED, packed_mask)
    return PACKED
