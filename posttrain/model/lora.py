"""LoRA: small trained matrices beside frozen ones (Hu et al. 2021, arXiv:2106.09685, section 4.1).

A layer with the matrix W [out, in] gets A [rank, in] and B [out, rank], and computes

    W·x + s·B·(A·x)        s = alpha / rank; B starts as zeros, so that training starts at W

peft puts the adapters into the model's own layers, so the model stays the class that it was. Merged
is W + s·B·A: computed in fp32 and cast once, in this one place, so that trainer, model folder and
engines hold the same numbers. The home of `peft`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from posttrain.config.lora import ALL_LINEAR, Lora
from posttrain.config.suggest import did_you_mean
from posttrain.errors import InputError, Problem
from posttrain.files import whole_directory

ADAPTER = "default"  # peft's name for the only one
IN_PEFT = "base_model.model."  # what peft puts before a layer's name in an adapter's file
DOWN, UP = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True, slots=True)
class AdaptedLayer:
    """A frozen matrix and its adapter, sharded where the model is."""

    weight: Tensor  # [out, in]
    down: Tensor  # A [rank, in]
    up: Tensor  # B [out, rank]
    scaling: float


def merged_weight(
    weight: Tensor, down: Tensor, up: Tensor, scaling: float, dtype: torch.dtype
) -> Tensor:
    """W + s·B·A [out, in] in fp32, then cast. `down` is A [rank, in], `up` is B [out, rank]."""
    return (weight.float() + scaling * (up.float() @ down.float())).to(dtype)


def add_adapters(model: Any, lora: Lora, seed: int) -> None:
    """Put adapters into a model, in place, and freeze everything else. The seed gives A.

    Raises InputError where a target names no linear layer, or the rank is larger than a matrix.
    """
    from peft import LoraConfig, inject_adapter_in_model

    targets = _targets(model, lora)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft divides by it; alpha may be a fraction
        target_modules=targets,
        task_type="CAUSAL_LM",
        base_model_name_or_path=model.name_or_path,
    )
    was_training = model.training
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model, ADAPTER)
    model.train(was_training)


def has_adapters(model: Any) -> bool:
    """Whether `add_adapters` was called on it."""
    return hasattr(model, "peft_config")


def base_folder(model: Any) -> str:
    """The model folder that the adapters were added to."""
    return str(model.peft_config[ADAPTER].base_model_name_or_path)


def adapted_layers(model: nn.Module) -> dict[str, AdaptedLayer]:
    """Every layer with an adapter, by the name that it has without one."""
    from peft.tuners.lora import LoraLayer

    layers: dict[str, Any] = {
        name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)
    }
    return {
        name: AdaptedLayer(
            module.get_base_layer().weight,
            module.lora_A[ADAPTER].weight,
            module.lora_B[ADAPTER].weight,
            module.scaling[ADAPTER],
        )
        for name, module in layers.items()
    }


def adapter_matrices(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """A and B of every adapted layer: `model.layers.0.mlp.up_proj.lora_A.weight`, ..."""
    for name, layer in adapted_layers(model).items():
        yield f"{name}{DOWN}", layer.down.detach()
        yield f"{name}{UP}", layer.up.detach()


def merged_parameters(
    model: nn.Module, dtype: torch.dtype, whole: Callable[[Tensor], Tensor] = lambda value: value
) -> Iterator[tuple[str, Tensor]]:
    """Every parameter of the model without adapters, theirs merged into it; tied ones once.

    `whole` puts a sharded tensor together, on every rank at the same point.
    """
    layers = adapted_layers(model)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            continue
        name = name.replace(".base_layer.", ".")
        weight = whole(parameter.detach())
        layer = layers.get(name.removesuffix(".weight"))
        if layer is None:
            yield name, weight.to(dtype)
        else:
            down, up = whole(layer.down.detach()), whole(layer.up.detach())
            yield name, merged_weight(weight, down, up, layer.scaling, dtype)


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Meanwhile the model is the one that the adapters were added to, bit for bit.

    Not by peft's own switch: that also changes which parameters want a gradient, and sharded
    parameters remember what they were told first.
    """
    from peft.tuners.lora import LoraLayer

    layers: list[Any] = [module for module in model.modules() if isinstance(module, LoraLayer)]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def save_adapter(model: Any, matrices: Mapping[str, Tensor], directory: str | Path) -> None:
    """Write the adapter as peft reads it: `PeftModel.from_pretrained(base, directory)`.

    `matrices` are those of `adapter_matrices`, whole.
    """
    from safetensors.torch import save_file

    config = copy(model.peft_config[ADAPTER])
    config.inference_mode = True
    named = {f"{IN_PEFT}{name}": value.cpu().contiguous() for name, value in matrices.items()}
    with whole_directory(Path(directory)) as partial:
        save_file(named, partial / "adapter_model.safetensors", {"format": "pt"})
        config.save_pretrained(str(partial))


# -- inside -------------------------------------------------------------------------------------


def _targets(model: Any, lora: Lora) -> list[str]:
    """The last names of the layers to adapt."""
    head = model.get_output_embeddings()
    head = getattr(model, "score", None) if head is None else head  # of a reward model
    linear = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }
    known = sorted({_last(name) for name in linear})
    targets = known if lora.targets == [ALL_LINEAR] else lora.targets
    for unknown in [target for target in targets if target not in known]:
        raise InputError(
            Problem(
                "unknown-layer",
                f"the model has no linear layer `{unknown}` that can get an adapter",
                path="lora.targets",
                file=model.name_or_path,
                help=did_you_mean(unknown, known),
            )
        )
    chosen = {name: module for name, module in linear.items() if _last(name) in targets}
    if not chosen:
        raise InputError(
            Problem(
                "unknown-layer",
                "the model has no linear layers: nothing can get an adapter",
                path="lora.targets",
                file=model.name_or_path,
                help="train it whole: leave `lora` out",
            )
        )
    _require_rank(chosen, lora.rank, model.name_or_path)
    return list(targets)


def _require_rank(chosen: Mapping[str, nn.Linear], rank: int, place: str) -> None:
    """Above a matrix's smaller side the pair could do no more, and cost more than the matrix."""
    name, layer = min(chosen.items(), key=lambda item: min(item[1].weight.shape))
    rows, columns = layer.weight.shape
    if rank > min(rows, columns):
        raise InputError(
            Problem(
                "rank-too-large",
                f"is {rank}, but {name} has {rows} × {columns} weights",
                path="lora.rank",
                file=place,
                help=f"rank: {min(rows, columns)} or less, or `lora.targets` without {_last(name)}",
            )
        )


def _last(name: str) -> str:
    return name.rpartition(".")[2]
