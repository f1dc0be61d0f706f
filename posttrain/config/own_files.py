"""What a pipeline needs of this machine's files to run on another one, as one small archive.

    pipeline.yaml                 presets, overrides and interpolations filled in
    files/my_reward.py            what it names: plug-ins, data, models of your own
    files/data/rows.jsonl         (placed as they lie to one another here)

Whatever the graph does not name stays at home, and so does what lies in a folder that the other
machines see too, at the same path.
"""

from __future__ import annotations

import copy
import os
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from posttrain.config.document import Places
from posttrain.config.paths import files_of
from posttrain.errors import InputError, Problem

LIMIT_BYTES = 100 * 1024**2
"""A Ray dashboard takes no more in one request."""

FOLDER = "files"
_DATE = (1980, 1, 1, 0, 0, 0)  # the same files make the same archive, and Ray knows it again


@dataclass(frozen=True, slots=True)
class OwnFile:
    """One file to send. Example: OwnFile(Path("/home/me/my_reward.py"), "files/my_reward.py",
    "stages.rlvr.reward.name")
    """

    path: Path
    place: str  # in the archive
    key: str  # dotted key that names it, or the folder that it lies in


@dataclass(frozen=True, slots=True)
class Luggage:
    """A pipeline as it is sent: its own files named relative to it."""

    raw: Mapping[str, Any]
    files: Sequence[OwnFile]


def gather(raw: Mapping[str, Any], shared: Sequence[Path] = ()) -> Luggage:
    """The files that a loaded pipeline's plain values name, and those values with the files'
    new places in them. What lies below a `shared` folder is neither sent nor renamed.
    """
    moved = copy.deepcopy(dict(raw))
    named = [
        (block, key, dotted, str(block[key]))
        for block, key, dotted in files_of(moved)
        if is_own_file(block[key], shared)
    ]
    placed = places_of({value for *_, value in named})
    files: dict[str, OwnFile] = {}
    for block, key, dotted, value in named:
        path, place = Path(value), placed[value]
        block[key] = f"./{place}"
        for file in _all_files(path):
            inside = "" if file == path else f"/{file.relative_to(path).as_posix()}"
            files.setdefault(str(file), OwnFile(file, f"{place}{inside}", dotted))
    return Luggage(moved, sorted(files.values(), key=lambda each: each.place))


def is_own_file(value: Any, shared: Sequence[Path]) -> bool:
    """Whether a value names a file of this machine alone. Loading made all files absolute."""
    if not (isinstance(value, str) and os.path.isabs(value)):
        return False
    return not any(
        Path(value).is_relative_to(each) for folder in shared for each in (folder, folder.resolve())
    )


def places_of(paths: Collection[str]) -> dict[str, str]:
    """Where absolute paths go in the archive: below the nearest folder that they share.

    Example: places_of({"/me/r.py", "/me/d/x.csv"}) is {"/me/r.py": "files/r.py", "/me/d/x.csv":
    "files/d/x.csv"}
    """
    if not paths:
        return {}
    above = Path(os.path.commonpath([os.path.dirname(path) for path in paths]))
    return {path: f"{FOLDER}/{Path(path).relative_to(above).as_posix()}" for path in paths}


def _all_files(path: Path) -> list[Path]:
    return sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]


def too_much(sizes: Mapping[OwnFile, int], places: Places) -> Problem | None:
    """The mistake of naming more than can be sent; `sizes` are bytes."""
    total = sum(sizes.values())
    if total <= LIMIT_BYTES:
        return None
    largest = max(sizes, key=lambda file: sizes[file])
    file, line = places.of(largest.key)
    return Problem(
        "too-much-to-send",
        f"the pipeline's files are {_megabytes(total)}, {_megabytes(LIMIT_BYTES)} can be sent; "
        f"the largest is {largest.path}, {_megabytes(sizes[largest])}",
        largest.key,
        file,
        line,
        "copy it to a folder that all nodes see, name that, and add --shared FOLDER",
    )


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"


def pack(luggage: Luggage, name: str, places: Places, archive: Path) -> None:
    """Write the zip archive: the pipeline under the file name `name`, and its files.

    Raises InputError where they are more than LIMIT_BYTES.
    """
    sizes = {file: file.path.stat().st_size for file in luggage.files}
    if problem := too_much(sizes, places):
        raise InputError(problem)
    text = yaml.safe_dump(dict(luggage.raw), sort_keys=False, allow_unicode=True)
    with zipfile.ZipFile(archive, "w") as target:
        _add(target, name, text.encode())
        for file in luggage.files:
            _add(target, file.place, file.path.read_bytes())


def _add(target: zipfile.ZipFile, place: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(place, _DATE)
    entry.external_attr = 0o644 << 16
    target.writestr(entry, content, zipfile.ZIP_DEFLATED)
