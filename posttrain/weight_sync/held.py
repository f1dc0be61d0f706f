"""Do the engine's layers compute with the weights that were loaded into them?

On CPUs vLLM packs matrices for its kernels and frees the originals, so their bytes cannot be
compared. Instead each layer multiplies one fixed vector, and the product is compared with that of
the received matrix: a layer that still holds old weights gives itself away. Costs one vector per
matrix.

Matrices on GPUs are not watched: nothing packs them, and reading them back would double the
traffic. Layers whose names or shapes do not map onto the received tensors (sharded over GPUs,
renamed, rescaled while loading) are not watched: `matching_modules`, asked right after vLLM's own
start, says which are. In fp32 a relative change of 1e-5 is seen, in bf16 one of 1e-2; what is
finer shows in the comparison of log-probs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Of |x|·|W|: a kernel's rounding, with room for other orders of summation.
TOLERANCE = {"torch.float32": 1e-5, "torch.bfloat16": 1e-2, "torch.float16": 2e-3}


def matching_modules(model: torch.nn.Module, received: Mapping[str, Tensor]) -> list[str]:
    """Names of the model's layers that can be checked and hold `received` now."""
    found = []
    for name, module in model.named_modules():
        if _stays_in_place(module):
            continue
        expected = _received_weight(model, name, module, received)
        if expected is not None and _holds(module, expected):
            found.append(name)
    return found


def stale_modules(
    model: torch.nn.Module, received: Mapping[str, Tensor], watched: Iterable[str]
) -> list[str]:
    """Names of the watched layers that compute with other weights than `received`."""
    stale = []
    for name in watched:
        module = model.get_submodule(name)
        expected = _received_weight(model, name, module, received)
        if expected is None or not _holds(module, expected):
            stale.append(name)
    return stale


def _stays_in_place(module: torch.nn.Module) -> bool:
    """Matrices on GPUs are copied into where they are used from; reading them back is dear."""
    weight = getattr(module, "weight", None)
    return weight is not None and weight.device.type != "cpu" and weight.ndim > 1


def _received_weight(
    model: torch.nn.Module, name: str, module: torch.nn.Module, received: Mapping[str, Tensor]
) -> Tensor | None:
    """What the layer's `weight` should be: one received tensor, or several that vLLM fuses."""
    import torch

    if getattr(module, "weight", None) is None:
        return None
    parent, _, last = name.rpartition(".")
    prefix = f"{parent}." if parent else ""
    parts = getattr(model, "packed_modules_mapping", {}).get(last, [last])
    tensors = [received.get(f"{prefix}{part}.weight") for part in parts]
    if tensors == [None]:
        tensors = [received.get(twin) for twin in _twins(model, module)][:1]
    present = [tensor for tensor in tensors if tensor is not None]
    if not present or len(present) != len(tensors):
        return None
    return present[0] if len(present) == 1 else torch.cat(present)


def _twins(model: torch.nn.Module, module: torch.nn.Module) -> list[str]:
    """Names of other layers that share this one's weight: a tied output head's embedding."""
    return [
        f"{name}.weight"
        for name, other in model.named_modules()
        if other is not module and getattr(other, "weight", None) is module.weight
    ]


def _holds(module: Any, expected: Tensor) -> bool:
    import torch

    packed = getattr(module, "cpu_linear", None)
    if packed is None or expected.ndim != 2:
        weight: Tensor = module.weight
        if weight.ndim != expected.ndim or weight.shape[1:] != expected.shape[1:]:
            return False
        held = weight.detach()[: len(expected)].cpu()  # vLLM pads vocabularies
        return torch.equal(held, expected.to(held.dtype))
    return _multiplies_like(module, expected)


def _multiplies_like(module: Any, expected: Tensor) -> bool:
    import torch

    dtype = module.weight.dtype
    columns = expected.shape[1]
    # Irrational steps: no two entries are equal, so a permuted matrix is noticed as well.
    probe = torch.cos(torch.arange(columns, dtype=torch.float32) * 1.6180339).to(dtype)[None]
    try:
        product = module.cpu_linear(probe, module.weight, None)[0].float()
    except RuntimeError:  # other shape than the received matrix: sharded
        return False
    matrix = expected.to(dtype).float()
    if len(product) < len(matrix):
        return False
    vector = probe[0].float()
    error = (product[: len(matrix)] - matrix @ vector).abs()
    bound = TOLERANCE[str(dtype)] * (matrix.abs() @ vector.abs()) + 1e-12
    return bool((error <= bound).all())
