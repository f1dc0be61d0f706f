"""Where the reference's weights are while nobody asks for them.

    Kept         on the trainer's device, beside the policy; spread over several ranks
    AdaptersOff  nowhere: the policy without its adapters is the reference
    MovedIn      on the host of a GPU; on the GPU, whole, while the log-probs of a step are computed
    Mapped       on disk, in its stored number format; a CPU's page cache holds what is used

All give the same log-probs, bit for bit: whatever is stored in bf16 is computed with in fp32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from posttrain.model.load import load_model, stored_formats
from posttrain.model.lora import adapters_off, has_adapters
from posttrain.train.ranks import Ranks
from posttrain.train.sharding import shard


class ReferenceWeights(Protocol):
    """The weights of a frozen model, wherever they are."""

    def spread(self, ranks: Ranks) -> None:
        """Share them among the ranks where that is their way. Collective, once."""
        ...

    def ready(self) -> AbstractContextManager[Any]:
        """The model, able to compute meanwhile."""
        ...


def reference_weights(policy: Any, path: str, mode: str, device: str) -> ReferenceWeights:
    """Of the model folder `path`, which `policy` was loaded from. `mode` is keep or offload;
    adapters on the policy make it unimportant.
    """
    if has_adapters(policy):
        return AdaptersOff(policy)
    if mode == "keep":
        model: Any = load_model(path, "fp32")
        return Kept(model.to(device))
    # By the tensors themselves: config.json may name a format in which they would be rounded.
    stored = load_model(path, "bf16" if stored_formats(path) == {"BF16"} else "fp32")
    return Mapped(stored) if device == "cpu" else MovedIn(stored, device)


class Kept:
    """Beside the policy."""

    def __init__(self, model: Any) -> None:
        self._model = model.eval().requires_grad_(False)

    def spread(self, ranks: Ranks) -> None:
        shard(self._model, ranks)

    def ready(self) -> AbstractContextManager[Any]:
        return nullcontext(self._model)


class AdaptersOff:
    """The policy itself."""

    def __init__(self, policy: Any) -> None:
        self._policy = policy

    def spread(self, ranks: Ranks) -> None:
        """The policy is."""

    @contextmanager
    def ready(self) -> Iterator[Any]:
        with adapters_off(self._policy):
            yield self._policy


class MovedIn:
    """On the host, and on the GPU only for as long as it is asked; frozen, so nothing moves back.

    One move per step, before the step's activations and gradients need the room.
    """

    def __init__(self, model: Any, device: str) -> None:
        self._model = model.eval().requires_grad_(False)
        self._device = device
        for module in model.modules():  # tables of angles: small, and not among the parameters
            for name, buffer in module._buffers.items():
                module._buffers[name] = None if buffer is None else buffer.to(device)

    def spread(self, ranks: Ranks) -> None:
        """`check` lets only one trainer do this on GPUs."""

    @contextmanager
    def ready(self) -> Iterator[Any]:
        stored = [(p, p.data) for p in self._model.parameters()]
        try:
            for parameter, data in stored:
                parameter.data = data.to(self._device).float()
            yield self._model
        finally:
            for parameter, data in stored:
                parameter.data = data


class Mapped:
    """Mapped from the model folder: no memory of this process' own, however many ranks map it.

    What is stored in bf16 becomes fp32 layer by layer, when the layer is about to compute.
    """

    def __init__(self, model: Any) -> None:
        self._model = model.eval().requires_grad_(False)
        for module in model.modules():
            parameters = list(module.parameters(recurse=False))
            if any(p.dtype != torch.float32 for p in parameters):
                _widen_meanwhile(module, [(p, p.data) for p in parameters])

    def spread(self, ranks: Ranks) -> None:
        """Every rank maps the same file."""

    def ready(self) -> AbstractContextManager[Any]:
        return nullcontext(self._model)


def _widen_meanwhile(module: nn.Module, stored: list[tuple[nn.Parameter, Tensor]]) -> None:
    """fp32 for as long as the layer's forward takes. Tied parameters belong to several layers."""

    def before(module: nn.Module, inputs: Any) -> None:
        for parameter, data in stored:
            parameter.data = data.float()

    def after(module: nn.Module, inputs: Any, output: Any) -> None:
        for parameter, data in stored:
            parameter.data = data

    module.register_forward_pre_hook(before)
    module.register_forward_hook(after, always_call=True)
