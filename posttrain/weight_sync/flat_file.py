"""All weights of one version in one flat file, mapped by every reader without a copy.

Layout: 8 bytes of magic, 8 bytes header length (little-endian), the header as JSON, zero bytes up
to a multiple of 64, then the tensors' raw bytes in row-major order, each at a multiple of 64:

    {"format": 1, "attempt": 0, "version": 24, "checksum": "9f…", "num_bytes": 3988480, "tensors": [
      {"name": "model.norm.weight", "dtype": "float32", "shape": [128], "offset": 4096,
       "num_bytes": 512}, …]}

Offsets count from the start of the file. Weights that share storage (tied embeddings) are written
once; the later names carry `same_as`. A file appears under its final name only when it is whole.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.errors import WeightsDiffer
from posttrain.types import WeightVersion
from posttrain.weight_sync.checksum import checksum

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MAGIC = b"PTRAINW1"
ALIGNMENT = 64
KEPT_VERSIONS = 2  # the newest, and the one that a slow engine may still be reading


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one named tensor lies. Example: TensorEntry("norm", "float32", (128,), 4096, 512)"""

    name: str
    dtype: str  # "float32", "bfloat16", ...
    shape: tuple[int, ...]
    offset: int  # bytes from the start of the file
    num_bytes: int
    same_as: str | None = None  # another name for that tensor's bytes


@dataclass(frozen=True, slots=True)
class Header:
    """What a weight file says of itself."""

    attempt: int
    version: int
    checksum: str
    num_bytes: int  # of the whole file
    tensors: tuple[TensorEntry, ...]


def write_weights(
    named_tensors: Mapping[str, Tensor], directory: str | Path, version: int, attempt: int
) -> WeightVersion:
    """Write one version and return where it lies, with its checksum.

    Needs room for all bytes once; a full disk raises OSError and leaves nothing behind. Older
    versions than the newest two of this directory are removed.
    """
    digest = checksum(named_tensors)
    entries, header_bytes, num_bytes = _plan(named_tensors, version, attempt, digest)
    folder = Path(directory)
    target = folder / f"{attempt}-{version}.weights"
    partial = folder / f".{target.name}.{os.getpid()}"
    try:
        _fill(partial, header_bytes, entries, named_tensors, num_bytes)
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)
    keep_newest(folder)
    return WeightVersion(attempt, version, digest, str(target), num_bytes)


def read_header(path: str | Path) -> Header:
    """The header alone: names, shapes, version. Raises WeightsDiffer where it has none."""
    with open(path, "rb") as file:
        start = file.read(16)
        length = int.from_bytes(start[8:], "little")
        if start[:8] != MAGIC or length > os.fstat(file.fileno()).st_size:
            raise _damaged(path, "it does not begin like a weight file")
        try:
            return _parse(json.loads(file.read(length)))
        except (ValueError, KeyError, TypeError) as error:
            raise _damaged(path, "its header is not readable") from error


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """All tensors by name, mapped: no bytes are copied, and pages are read when they are used.

    The mapping is private: writing into a tensor changes neither the file nor other readers. It
    lives as long as the tensors do, also after the file was removed.
    """
    import torch

    header = read_header(path)
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size != header.num_bytes:
            raise _damaged(path, f"it should have {header.num_bytes} bytes")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    tensors: dict[str, Tensor] = {}
    for entry in header.tensors:
        if entry.same_as is not None:
            tensors[entry.name] = tensors[entry.same_as]
            continue
        dtype: torch.dtype = getattr(torch, entry.dtype)
        count = math.prod(entry.shape)
        if count == 0:
            tensors[entry.name] = torch.empty(entry.shape, dtype=dtype)
            continue
        flat = torch.frombuffer(mapped, dtype=dtype, count=count, offset=entry.offset)
        tensors[entry.name] = flat.reshape(entry.shape)
    return tensors


def keep_newest(directory: str | Path, count: int = KEPT_VERSIONS) -> None:
    """Remove all but the `count` newest versions; readers that have one mapped keep it."""
    for file in _by_age(directory)[:-count]:
        file.unlink(missing_ok=True)


def newest_file(directory: str | Path) -> Path | None:
    """The file of the newest version, None where there is none."""
    files = _by_age(directory)
    return files[-1] if files else None


def _by_age(directory: str | Path) -> list[Path]:
    return sorted(Path(directory).glob("*-*.weights"), key=_order)


def _order(file: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in file.stem.split("-"))


def _plan(
    named_tensors: Mapping[str, Tensor], version: int, attempt: int, digest: str
) -> tuple[list[TensorEntry], bytes, int]:
    """(entries, the file's first bytes, bytes of the whole file)."""
    first_names: dict[tuple[object, ...], str] = {}
    relative: list[TensorEntry] = []
    position = 0
    for name, tensor in named_tensors.items():
        shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
        key = (tensor.data_ptr(), dtype, shape, tensor.stride())
        num_bytes = tensor.numel() * tensor.element_size()
        if num_bytes and key in first_names:
            relative.append(TensorEntry(name, dtype, shape, 0, 0, first_names[key]))
            continue
        first_names[key] = name
        relative.append(TensorEntry(name, dtype, shape, position, num_bytes))
        position += _aligned(num_bytes)
    # Offsets stand in the header, whose length they change: room for the longest is reserved.
    draft = _header_json(relative, version, attempt, digest, 10**15, 10**15)
    start = _aligned(16 + len(draft))
    entries = [_moved(entry, start) for entry in relative]
    num_bytes = start + position
    text = _header_json(entries, version, attempt, digest, 0, num_bytes)
    padded = text + b" " * (start - 16 - len(text))
    return entries, MAGIC + len(padded).to_bytes(8, "little") + padded, num_bytes


def _moved(entry: TensorEntry, start: int) -> TensorEntry:
    offset = 0 if entry.same_as else entry.offset + start
    return TensorEntry(entry.name, entry.dtype, entry.shape, offset, entry.num_bytes, entry.same_as)


def _header_json(
    entries: list[TensorEntry], version: int, attempt: int, digest: str, move: int, num_bytes: int
) -> bytes:
    rows: list[dict[str, Any]] = []
    for entry in entries:
        row: dict[str, Any] = {"name": entry.name, "dtype": entry.dtype, "shape": entry.shape}
        if entry.same_as is None:
            row |= {"offset": entry.offset + move, "num_bytes": entry.num_bytes}
        else:
            row["same_as"] = entry.same_as
        rows.append(row)
    header = {"format": 1, "attempt": attempt, "version": version, "checksum": digest}
    return json.dumps(header | {"num_bytes": num_bytes, "tensors": rows}).encode()


def _fill(
    path: Path,
    header_bytes: bytes,
    entries: list[TensorEntry],
    named_tensors: Mapping[str, Tensor],
    num_bytes: int,
) -> None:
    import torch

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        # Without the reservation a full disk would kill the process in the middle of a copy.
        os.posix_fallocate(descriptor, 0, num_bytes)
        mapped = mmap.mmap(descriptor, num_bytes)
    finally:
        os.close(descriptor)
    mapped[: len(header_bytes)] = header_bytes
    for entry in entries:
        if entry.num_bytes:
            source = named_tensors[entry.name].detach()
            room = torch.frombuffer(
                mapped, dtype=source.dtype, count=source.numel(), offset=entry.offset
            )
            room.view(source.shape).copy_(source)


def _parse(raw: dict[str, Any]) -> Header:
    entries = tuple(
        TensorEntry(
            row["name"],
            row["dtype"],
            tuple(row["shape"]),
            row.get("offset", 0),
            row.get("num_bytes", 0),
            row.get("same_as"),
        )
        for row in raw["tensors"]
    )
    return Header(raw["attempt"], raw["version"], raw["checksum"], raw["num_bytes"], entries)


def _damaged(path: str | Path, why: str) -> WeightsDiffer:
    return WeightsDiffer(
        f"the weight file is damaged: {why}",
        place=str(path),
        help="publish the version again; if it returns, test the host's memory",
    )


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT
