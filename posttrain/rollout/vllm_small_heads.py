"""Attention heads of any size on CPUs: padded with zeros up to one that vLLM's kernel knows.

vLLM's CPU attention is compiled for a few head sizes (32, 64, 80, ...); a model whose heads have 8
or 16 dimensions, as very small ones do, ends the engine at its first token. Here queries, keys and
values get zeros behind their last dimension and the output loses them again. This is exact: zeros
add nothing to a dot product, the zeros of a value only reach the part that is cut off, rotary
embeddings were applied before, and the softmax scale is passed on as the model set it. It costs
cache and time as if the model had heads of the larger size.

Everything goes through vLLM's own seams: a backend registered in place of `CPU_ATTN`, which
publishes the cache's layout (`customize_spec`) and computes. So it works for every architecture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.nn.functional import pad
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend, CPUAttentionBackendImpl
from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend
from vllm.v1.kv_cache_interface import AttentionSpec


def support_small_heads() -> None:
    """Make engines that start in this process from now on pad. Calling it twice is fine."""
    backend = f"{PaddedAttentionBackend.__module__}.{PaddedAttentionBackend.__qualname__}"
    register_backend(AttentionBackendEnum.CPU_ATTN, backend)


def kernel_head_size(head_size: int, supported: Sequence[int]) -> int:
    """The smallest supported size that holds `head_size`; itself where none does."""
    return min((size for size in supported if size >= head_size), default=head_size)


class PaddedAttentionBackend(CPUAttentionBackend):
    """vLLM's CPU attention, for decoders with heads of any size up to its largest."""

    @staticmethod
    def get_impl_cls() -> type[CPUAttentionBackendImpl]:
        return PaddedAttentionImpl

    @classmethod
    def customize_spec(cls, spec: AttentionSpec) -> AttentionSpec:
        """The cache's layout: keys and values lie in it padded."""
        size = kernel_head_size(spec.head_size, cls.get_supported_head_sizes())
        return spec if size == spec.head_size else replace(spec, head_size=size, head_size_v=size)


class PaddedAttentionImpl(CPUAttentionBackendImpl):
    """Pads what goes into the kernel and cuts what comes out.

    Shapes: `S` dimensions of a model's head, `P` of a kernel's, `H` query heads, `N` key heads.
    """

    def __init__(self, num_heads: int, head_size: int, *others: Any, **named: Any) -> None:
        super().__init__(num_heads, head_size, *others, **named)
        supported = PaddedAttentionBackend.get_supported_head_sizes()
        self.num_zeros = kernel_head_size(head_size, supported) - head_size

    def forward(
        self,
        layer: Any,
        query: torch.Tensor,  # [T, H, S]
        key: torch.Tensor,  # [T, N, S]; a decoder's kernel reads the cache instead
        value: torch.Tensor,
        kv_cache: torch.Tensor,  # [blocks, N, block size, 2 P]
        attn_metadata: Any,
        output: torch.Tensor,  # [T, H, S], filled
        *others: Any,
        **named: Any,
    ) -> torch.Tensor:
        """Attention of T tokens over the cache, into `output`."""
        arguments = (layer, self._padded(query), key, value, kv_cache, attn_metadata)
        if self.num_zeros == 0:
            return super().forward(*arguments, output, *others, **named)
        room = self._padded(output)
        super().forward(*arguments, room, *others, **named)
        return output.copy_(room[..., : self.head_size])

    def do_kv_cache_update(
        self,
        layer: torch.nn.Module,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        slot_mapping: torch.Tensor,
    ) -> None:
        """Write T tokens' keys and values [T, N, S] into the cache [blocks, N, block size, 2 P]."""
        key, value = self._padded(key), self._padded(value)
        super().do_kv_cache_update(layer, key, value, kv_cache, slot_mapping)

    def _padded(self, heads: torch.Tensor) -> torch.Tensor:
        return pad(heads, (0, self.num_zeros)) if self.num_zeros else heads
