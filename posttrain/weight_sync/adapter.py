"""A LoRA adapter on its way to the engines: small matrices in place of a model's weights.

Published are, through any transport, under any version, covered by the same checksum as weights:

    <layer>.lora_A.weight   [rank, in] fp32    for every adapted layer
    <layer>.lora_B.weight   [out, rank] fp32
    adapter.scaling         [1] fp64           s of W + s·B·A
    adapter.base            [16] bytes         checksum of the model folder that it belongs to

An engine reads W from the model folder that it was given, merges as the trainer's own model folder
is merged (`model.lora.merged_weight`), and loads the result like any other weights: it generates at
full speed, and every check of its layers goes on working.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from posttrain.errors import WeightsDiffer
from posttrain.model.lora import DOWN, UP, merged_weight
from posttrain.weight_sync.checksum import checksum
from posttrain.weight_sync.model_folder import (
    read_model_folder,
    require_same_tensors,
    weight_files,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SCALING, BASE = "adapter.scaling", "adapter.base"


def adapter_tensors(
    matrices: Mapping[str, Tensor], scaling: float, base_checksum: str
) -> dict[str, Tensor]:
    """What is published of an adapter. `matrices` are A and B by name, on one device."""
    import torch

    device = next(iter(matrices.values())).device
    base = torch.tensor(list(bytes.fromhex(base_checksum)), dtype=torch.uint8, device=device)
    factor = torch.tensor([scaling], dtype=torch.float64, device=device)
    return {**matrices, SCALING: factor, BASE: base}


def holds_adapter(names: Collection[str]) -> bool:
    """Whether published tensors are an adapter."""
    return BASE in names


def base_checksum(folder: str | Path) -> str:
    """Over all tensors of a model folder as they are stored. Read once, unless its files change.

    Raises WeightsDiffer where they are gone.
    """
    with _base_there(folder):
        files = tuple(
            (str(file), file.stat().st_size, file.stat().st_mtime_ns)
            for file in weight_files(folder)
        )
        return _checksum_of(str(folder), files)


@contextmanager
def _base_there(folder: str | Path) -> Iterator[None]:
    """A missing base is not a version that is gone: asking for a newer one would not help."""
    try:
        yield
    except FileNotFoundError as error:
        raise WeightsDiffer(
            f"the model that adapters belong to is not there any more: {error.filename}",
            place=str(folder),
            help="restore the folder that the stage starts from, then posttrain resume",
        ) from error


@functools.lru_cache(maxsize=4)
def _checksum_of(folder: str, files: tuple[tuple[str, int, int], ...]) -> str:
    return checksum(read_model_folder(folder))


def require_fitting(
    expected: Mapping[str, tuple[int, ...]],
    given: Mapping[str, tuple[int, ...]],
    tied: bool,
    place: str,
) -> None:
    """Raise WeightsDiffer where published tensors are neither all of the model's, nor an adapter
    for it.
    """
    if not holds_adapter(given):
        require_same_tensors(expected, given, tied, place)
        return
    for name in sorted(given.keys() - {SCALING, BASE}):
        layer = name.removesuffix(DOWN).removesuffix(UP)
        down, up = given.get(f"{layer}{DOWN}"), given.get(f"{layer}{UP}")
        matrix = expected.get(f"{layer}.weight")
        if down is None or up is None or layer == name:
            raise _unfit(f"{name} has no counterpart", place)
        if matrix is None:
            raise _unfit(f"the engine's model has no {layer}.weight", place)
        if (*up, *down) != (matrix[0], down[0], down[0], matrix[-1]):
            raise _unfit(f"{layer}.weight is {matrix}, the adapter's {up} times {down}", place)


def require_base(
    engine: str, published: Mapping[str, Tensor], folder: str | Path, place: str
) -> None:
    """Raise WeightsDiffer where an adapter belongs to another model than the engine was given."""
    belongs = bytes(published[BASE].tolist()).hex()
    holds = base_checksum(folder)
    if belongs != holds:
        raise WeightsDiffer(
            f"engine {engine} was sent an adapter for the model {belongs[:8]}, and has been given "
            f"the model {holds[:8]} of {folder}",
            place=place,
            help="give the engine the model folder that the stage starts from; its files must not "
            "change while it trains",
        )


class MergedWeights(Mapping[str, "Tensor"]):
    """All weights of a model folder, the adapter's layers merged when they are asked for.

    On `device` and in `dtype` are those alone; so no second model is ever held.
    """

    def __init__(
        self,
        folder: str | Path,
        published: Mapping[str, Tensor],
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        with _base_there(folder):
            self._base = read_model_folder(folder)
        self._published = published
        self._scaling = float(published[SCALING])
        self._dtype = dtype
        self._device = device

    def __getitem__(self, name: str) -> Tensor:
        weight = self._base[name]
        layer = name.removesuffix(".weight")
        down, up = self._published.get(f"{layer}{DOWN}"), self._published.get(f"{layer}{UP}")
        if down is None or up is None:
            return weight
        weight, down, up = (value.to(self._device) for value in (weight, down, up))
        return merged_weight(weight, down, up, self._scaling, self._dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._base)

    def __len__(self) -> int:
        return len(self._base)


def _unfit(fact: str, place: str) -> WeightsDiffer:
    return WeightsDiffer(
        f"the published adapter is not one for the engine's model: {fact}",
        place=place,
        help="engine and trainer must start from the same model folder",
    )
