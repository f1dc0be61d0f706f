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
from dataclasses import dataclass
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
    stale, questions = compare(model, received, watched)
    return sorted(stale + wrong_answers(model, questions))


@dataclass(frozen=True, slots=True)
class Question:
    """One vector for a packed layer, and what it has to make of it."""

    probe: Tensor  # [1, columns]
    product: Tensor  # [rows] float32
    bound: Tensor  # [rows] how far a kernel's rounding may lie from it


def compare(
    model: torch.nn.Module, received: Mapping[str, Tensor], watched: Iterable[str]
) -> tuple[list[str], dict[str, Question]]:
    """(layers whose tensors are not the received ones, a question for each packed layer).

    Runs no kernel of the engine's, so the engine may go on meanwhile.
    """
    stale: list[str] = []
    questions: dict[str, Question] = {}
    for name in watched:
        module = model.get_submodule(name)
        expected = _received_weight(model, name, module, received)
        if expected is None or not _keeps(module, expected):
            stale.append(name)
        elif _is_packed(module, expected):
            questions[name] = _question(module, expected)
    return stale, questions


def wrong_answers(model: torch.nn.Module, questions: Mapping[str, Question]) -> list[str]:
    """Names of the layers that answer otherwise than they should.

    The engine has to stand still: its kernels share scratch memory.
    """
    return [
        name
        for name, question in questions.items()
        if not _answers(model.get_submodule(name), question)
    ]


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
    if not _keeps(module, expected):
        return False
    return not _is_packed(module, expected) or _answers(module, _question(module, expected))


def _is_packed(module: Any, expected: Tensor) -> bool:
    return getattr(module, "cpu_linear", None) is not None and expected.ndim == 2


def _keeps(module: Any, expected: Tensor) -> bool:
    """Whether the layer's own tensor is the expected one; True where packing has freed it."""
    import torch

    weight: Tensor = module.weight
    if weight.numel() == 0 and _is_packed(module, expected):
        return True
    if weight.ndim != expected.ndim or weight.shape[1:] != expected.shape[1:]:
        return False
    held = weight.detach()[: len(expected)].cpu()  # vLLM pads vocabularies
    return torch.equal(held, expected.to(held.dtype))


def _question(module: Any, expected: Tensor) -> Question:
    import torch

    dtype = module.weight.dtype
    # Irrational steps: no two entries are equal, so a permuted matrix is noticed as well.
    steps = torch.arange(expected.shape[1], dtype=torch.float32) * 1.6180339
    probe = torch.cos(steps).to(dtype)
    matrix, vector = expected.to(dtype).float(), probe.float()
    bound = TOLERANCE[str(dtype)] * (matrix.abs() @ vector.abs()) + 1e-12
    return Question(probe[None], matrix @ vector, bound)


def _answers(module: Any, question: Question) -> bool:
    try:
        answer = module.cpu_linear(question.probe, module.weight, None)[0].float()
    except RuntimeError:  # other shape than the received matrix: sharded
        return False
    rows = len(question.product)
    if len(answer) < rows:
        return False
    return bool(((answer[:rows] - question.product).abs() <= question.bound).all())
