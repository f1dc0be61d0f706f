"""A second set of layers, filled while the first one goes on generating.

A weight update on CPUs is mostly packing: every matrix is brought into the order that its kernel
wants. None of it needs the engine to stand still. So the new weights are loaded into a twin of the
model, which shares everything with it except parameters and kernels, are checked there, and what
is left for the pause between two steps is to hand the twin's tensors over: pointers, no bytes.

Only for models whose layers may get other tensors: captured graphs (GPUs) hold on to addresses,
compiled ones to kernels. Needs room for the weights twice while an update is under way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from vllm.model_executor.model_loader.reload.layerwise import (
    LAYERWISE_INFO,
    _get_original_loader,
    get_layerwise_info,
)

# What a twin has of its own from the start; anything else that loading sets is a kernel.
_STRUCTURE = frozenset({"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"})


def twin_of(model: nn.Module) -> nn.Module:
    """The same tree of layers with parameters of its own, still without values.

    Tied parameters stay tied. Whatever loading would write to is the twin's own; the rest (key and
    value caches, tables, settings) is shared, so nothing may run on the twin but loading.
    """
    return _twin(model, {}, {})


def take_over(model: nn.Module, twin: nn.Module) -> list[Any]:
    """Give the model the twin's tensors and kernels. Returns what it had.

    To be called while nothing computes. Let go of the returned objects when there is time again:
    freeing large matrices takes longer than handing them over.
    """
    replaced: list[Any] = []
    for live, filled in _pairs(model, twin):
        replaced.append((dict(live._parameters), dict(live._buffers)))
        live._parameters.update(filled._parameters)
        live._buffers.update(filled._buffers)
        for name, value in filled.__dict__.items():
            if name not in _STRUCTURE and live.__dict__.get(name) is not value:
                replaced.append(live.__dict__.get(name))
                live.__dict__[name] = value
    return replaced


def end_loading(twin: nn.Module) -> None:
    """Make vLLM forget the twin, whose loading is over or failed.

    Its notes on a layer are kept for as long as the layer lives; but they hold the layer's loaders,
    which hold the layer, so that a twin and the weights handed over with it would live for ever.
    Emptied, they form no circle either: the weights go when they are replaced, not whenever Python
    looks for circles.
    """
    for module in twin.modules():
        noted = LAYERWISE_INFO.pop(module, None)
        if noted is not None:
            noted.restore_metadata = ({}, {})
            noted.reset()


def _twin(
    module: nn.Module, modules: dict[int, nn.Module], parameters: dict[int, torch.Tensor]
) -> nn.Module:
    if id(module) in modules:
        return modules[id(module)]
    twin = module.__class__.__new__(module.__class__)
    twin.__dict__.update(module.__dict__)
    modules[id(module)] = twin
    kept = module._non_persistent_buffers_set
    twin.__dict__["_non_persistent_buffers_set"] = set(kept)
    twin.__dict__["_parameters"] = {
        name: None if parameter is None else _empty_like(parameter, parameters)
        for name, parameter in module._parameters.items()
    }
    twin.__dict__["_buffers"] = {
        name: buffer if buffer is None or name in kept else buffer.clone()
        for name, buffer in module._buffers.items()
    }
    twin.__dict__["_modules"] = {
        name: None if child is None else _twin(child, modules, parameters)
        for name, child in module._modules.items()
    }
    _copy_restore_metadata(module, twin)
    return twin


def _copy_restore_metadata(module: nn.Module, twin: nn.Module) -> None:
    """What vLLM noted at its start: how the layer looks before its weights are processed.

    A reload hangs a loader of its own, bound to the layer, on these notes; so each twin gets a copy
    without it.
    """
    noted, own = get_layerwise_info(module), get_layerwise_info(twin)
    parameters, buffers = noted.restore_metadata
    own.restore_metadata = (_fresh(parameters), _fresh(buffers))
    own.restore_device = noted.restore_device


def _fresh(noted: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    copies = {}
    for name, tensor in noted.items():
        copy = tensor.data.to("meta")
        copy.__class__ = tensor.__class__
        copy.__dict__.update(tensor.__dict__)
        if hasattr(copy, "weight_loader"):
            copy.weight_loader = _get_original_loader(copy)
        copies[name] = copy
    return copies


def _empty_like(parameter: torch.Tensor, parameters: dict[int, torch.Tensor]) -> torch.Tensor:
    if id(parameter) not in parameters:
        twin = torch.empty_like(parameter.data)
        twin.__class__ = parameter.__class__
        twin.__dict__.update(parameter.__dict__)
        parameters[id(parameter)] = twin
    return parameters[id(parameter)]


def _pairs(model: nn.Module, twin: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    filled = dict(twin.named_modules())
    for name, module in model.named_modules():
        yield module, filled[name]
