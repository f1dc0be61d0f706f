"""Looks through a run folder for what may go. Reads only, and follows no symbolic link.

The rules are in `removable`. Whoever removes what is listed here holds the run's lock from before
the look: files that a run is writing look like what a killed one left behind.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from posttrain.checkpoint.folders import POINTER, CommittedFolders
from posttrain.errors import InputError, Problem
from posttrain.pipeline.removable import (
    CHECKPOINTS,
    ONLY_UNTIL_DONE,
    FoundStage,
    Kind,
    Removable,
    is_leftover,
    is_top_leftover,
    superseded,
)
from posttrain.pipeline.store import RunFolder, read_json

NO_LEFTOVERS_IN = ("model", "reward_models", "logs", "wandb", CHECKPOINTS)


def removable(run: RunFolder) -> list[Removable]:
    """Everything of a run that may go, stage by stage.

    Raises InputError `run-unreadable` where run.json does not say which stages the run has: then
    nothing tells what is needed.
    """
    root, used = run.path.resolve(), _used(run)
    stages = list(_stages(root))
    gone = superseded(stages, used, _linked(root, stages))
    found = [_item("leftovers", path, "half-written") for path in _top_leftovers(root)]
    for stage in stages:
        folder = root / stage.stage / stage.identity
        if stage in gone:
            now = used.get(stage.stage)
            why = f"{now} is used now" if now else "no stage of this name any more"
            found.append(_item("stages", folder, why))
            continue
        found += [
            _item("checkpoints", path, why) for path, why in _checkpoints(folder, stage.is_done)
        ]
        found += [_item("leftovers", path, why) for path, why in _leftovers(folder, stage.is_done)]
    return found


def tree_bytes(path: Path) -> int:
    """Bytes that go with a file or folder. Links, and files with another name, free nothing."""
    entries = _entries(path) if is_real_folder(path) else None
    if entries is None:
        status = path.lstat()
        return status.st_size if stat.S_ISREG(status.st_mode) and status.st_nlink == 1 else 0
    return sum(tree_bytes(Path(entry.path)) for entry in entries)


def is_real_folder(path: Path) -> bool:
    """Whether it is a folder itself, no link to one."""
    return path.is_dir() and not path.is_symlink()


def _item(kind: Kind, path: Path, why: str) -> Removable:
    return Removable(kind, path, tree_bytes(path), why)


def _used(run: RunFolder) -> dict[str, str]:
    try:
        return {str(stage["name"]): str(stage["identity"]) for stage in _told(run.read())}
    except (OSError, UnicodeDecodeError, KeyError, TypeError, ValueError):
        raise InputError(
            Problem(
                "run-unreadable",
                "its run.json does not say which stages are in use, so nothing may go",
                path=str(run.path),
                help="write it anew: posttrain run FILE; what is done is kept",
            )
        ) from None


def _told(document: dict[str, Any]) -> list[dict[str, Any]]:
    stages = document["stages"]
    if not stages:
        raise ValueError("no stages")
    return list(stages)


def _stages(root: Path) -> Iterator[FoundStage]:
    """Folders `STAGE/IDENTITY` whose manifest says that they are just that."""
    for stage in _folders(root):
        for folder in _folders(stage) if not stage.name.startswith(".") else ():
            manifest = _manifest(folder)
            if manifest and manifest.get("identity") == folder.name:
                done, ended = manifest.get("state") == "done", manifest.get("ended")
                when = float(ended) if isinstance(ended, int | float) else 0.0
                yield FoundStage(stage.name, folder.name, done, when)


def _manifest(folder: Path) -> dict[str, Any] | None:
    try:
        return read_json(folder / "manifest.json")
    except (OSError, UnicodeDecodeError):
        return None  # not known to be ours: it stays


def _linked(root: Path, stages: list[FoundStage]) -> set[tuple[str, str]]:
    """Stages of this run that `best`, or a run beside it, points to."""
    folders = {root / each.stage / each.identity: (each.stage, each.identity) for each in stages}
    targets = [Path(os.path.realpath(root / "best"))]
    texts = []
    for run in (each for each in _folders(root.parent) if (each / "run.json").is_file()):
        pipeline = run / "pipeline.yaml"
        if pipeline.is_file():
            texts.append(_unbroken(pipeline.read_text(encoding="utf-8", errors="replace")))
        targets += [
            Path(os.path.realpath(file)) for file in run.glob("*/*/model/*") if file.is_symlink()
        ]
    around = {parent for target in targets for parent in (target, *target.parents)}
    return {
        key
        for folder, key in folders.items()
        if folder in around or any(_unbroken(str(folder)) in text for text in texts)
    }


def _unbroken(text: str) -> str:
    """Without white space: YAML breaks long values, and so paths, where they have some."""
    return "".join(text.split())


def _checkpoints(folder: Path, is_done: bool) -> Iterator[tuple[Path, str]]:
    checkpoints = folder / CHECKPOINTS
    if not is_real_folder(checkpoints):
        return
    if is_done:
        yield checkpoints, "the stage is done"
        return
    for each in (checkpoints, *_folders(checkpoints)):  # an ensemble's members have their own
        if (each / POINTER).is_file():
            for old in CommittedFolders(each).unneeded():
                if is_real_folder(old):
                    yield old, "a newer checkpoint is whole"


def _top_leftovers(root: Path) -> Iterator[Path]:
    for entry in _entries(root):
        if is_top_leftover(entry.name):
            yield Path(entry.path)


def _leftovers(folder: Path, is_done: bool) -> Iterator[tuple[Path, str]]:
    for name in ONLY_UNTIL_DONE if is_done else ():
        path = folder / name
        if path.exists() and not path.is_symlink():
            yield path, "the stage is done"
    yield from ((path, "half-written") for path in _half_written(folder, is_done))
    checkpoints = folder / CHECKPOINTS
    if not is_done and is_real_folder(checkpoints):
        for each in (checkpoints, *_folders(checkpoints)):
            yield from (
                (Path(entry.path), "half-written")
                for entry in _entries(each)
                if is_leftover(entry.name, is_done)
            )


def _half_written(folder: Path, is_done: bool) -> Iterator[Path]:
    for entry in _entries(folder):
        is_folder = entry.is_dir(follow_symlinks=False)
        if is_leftover(entry.name, is_done):
            yield Path(entry.path)
        elif is_folder and entry.name not in (*NO_LEFTOVERS_IN, *ONLY_UNTIL_DONE):
            yield from _half_written(Path(entry.path), is_done)


def _folders(path: Path) -> list[Path]:
    return [Path(entry.path) for entry in _entries(path) if entry.is_dir(follow_symlinks=False)]


def _entries(path: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return []  # not ours to read, so not ours to remove
