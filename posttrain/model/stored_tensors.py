"""Tensors of a model folder, read one by one, and shards of tensors written one by one.

A shard is a safetensors file: 8 bytes length (little-endian), a header as JSON, the tensors' bytes.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.errors import InputError, Problem
from posttrain.files import whole_file
from posttrain.model.folders import WEIGHTS, read_json, require_model_folder

if TYPE_CHECKING:
    from torch import Tensor

INDEX = "model.safetensors.index.json"
OUTPUT_HEAD = "lm_head.weight"
_NUMBER = re.compile(r"(?:^|\.)(\d+)\.")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies. Example: StoredTensor(Path("model.safetensors"), "BF16", (4, 8), 64)"""

    file: Path
    number_format: str  # as safetensors calls it: F32, BF16, I64, ...
    shape: tuple[int, ...]
    num_bytes: int

    @property
    def is_floating(self) -> bool:
        return self.number_format.startswith(("F", "BF"))


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model folder whose tensors are read when they are wanted."""

    label: str  # what people call it: a stage's name
    folder: Path
    tensors: Mapping[str, StoredTensor]  # in the order of the files, and in that within a file
    num_layers: int

    @property
    def shards(self) -> dict[str, list[str]]:
        """Names of tensors by name of file."""
        shards: dict[str, list[str]] = {}
        for name, stored in self.tensors.items():
            shards.setdefault(stored.file.name, []).append(name)
        return shards

    def read(self, name: str) -> Tensor:
        """The tensor, mapped from its file: to be read, and let go of before the next."""
        from safetensors import safe_open

        with safe_open(self.tensors[name].file, framework="pt") as shard:
            return shard.get_tensor(name)


def stored_model(path: str | Path, label: str = "") -> StoredModel:
    """Look into a folder; only headers are read.

    An output head that config.json ties to the embeddings is left out where a folder has it all the
    same: there is only one tensor. Raises InputError where the folder holds no model, or a damaged
    one.
    """
    require_model_folder(path)
    folder = Path(path)
    tensors: dict[str, StoredTensor] = {}
    for file in _weight_files(folder):
        tensors |= _header(file)
    if read_json(folder / "config.json").get("tie_word_embeddings"):
        tensors.pop(OUTPUT_HEAD, None)
    layers = [layer for name in tensors if (layer := layer_of(name)) is not None]
    return StoredModel(label or str(path), folder, tensors, 1 + max(layers, default=-1))


def layer_of(name: str) -> int | None:
    """The number of a tensor's layer: 3 of `model.layers.3.mlp.up_proj.weight`; None outside."""
    found = _NUMBER.search(name)
    return int(found.group(1)) if found else None


def write_shard(
    target: Path,
    names: Iterable[str],
    layout: Mapping[str, StoredTensor],
    produce: Callable[[str], Tensor],
) -> None:
    """Write a file with one tensor after another, as `produce` makes them; it appears when whole.

    Shapes and number formats are those of `layout`. Raises ValueError where `produce` returns
    another size.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        stored = layout[name]
        start, end = end, end + stored.num_bytes
        header[name] = {
            "dtype": stored.number_format,
            "shape": stored.shape,
            "data_offsets": (start, end),
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with whole_file(target) as partial, partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in header:
            if name != "__metadata__":
                file.write(_bytes_of(name, produce(name), layout[name].num_bytes))


def is_whole(file: Path, names: Iterable[str], layout: Mapping[str, StoredTensor]) -> bool:
    """Whether a shard is there, with just these tensors, in these shapes and number formats."""
    try:
        found = _header(file)
    except (OSError, InputError):
        return False
    wanted = {name: layout[name] for name in names}
    return found.keys() == wanted.keys() and all(
        (each.number_format, each.shape) == (wanted[name].number_format, wanted[name].shape)
        for name, each in found.items()
    )


def _bytes_of(name: str, tensor: Tensor, num_bytes: int) -> Any:
    """A buffer of the tensor's own memory where it lies in one piece."""
    import torch

    flat = tensor.detach().contiguous().flatten().view(torch.uint8)
    if flat.numel() != num_bytes:
        raise ValueError(f"`{name}` came out with {flat.numel()} bytes, not {num_bytes}")
    return flat.numpy().data


def _weight_files(folder: Path) -> list[Path]:
    """Those that make up the model: a folder may hold adapters, or the same weights twice."""
    index = read_json(folder / INDEX)
    if index:
        return [folder / name for name in sorted(set(index["weight_map"].values()))]
    single = folder / f"model{WEIGHTS}"
    return [single] if single.exists() else sorted(folder.glob(f"*{WEIGHTS}"))


def _header(file: Path) -> dict[str, StoredTensor]:
    """What a file holds, in the order of its bytes. Raises InputError where it is damaged."""
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            size = os.fstat(opened.fileno()).st_size
            header = json.loads(opened.read(length)) if length <= size else {}
        entries = {name: each for name, each in header.items() if name != "__metadata__"}
        end = max((each["data_offsets"][1] for each in entries.values()), default=-1)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(file) from error
    if 8 + length + end != size:
        raise _damaged(file)
    ordered = sorted(entries.items(), key=lambda item: tuple(item[1]["data_offsets"]))
    return {
        name: StoredTensor(
            file,
            each["dtype"],
            tuple(each["shape"]),
            each["data_offsets"][1] - each["data_offsets"][0],
        )
        for name, each in ordered
    }


def _damaged(file: Path) -> InputError:
    message = "the file of weights is missing, cut short, or no safetensors file"
    help = "copy it again, or let the stage that wrote it run again"
    return InputError(Problem("unreadable-file", message, file=str(file), help=help))
