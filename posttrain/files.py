"""Files and folders that are there whole or not at all, after a power cut too.

What is new is written beside its place, brought to disk, and put into its place in one step, which
is brought to disk in turn: whatever is written later can rely on it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REMOTE = ("nfs", "cifs", "smb", "9p", "fuse.sshfs")  # how the names of such file systems begin


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """Where to write a new file that takes the target's place once it is complete."""
    partial = _beside(target)
    try:
        yield partial
        flush(partial)
        os.replace(partial, target)
        flush(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_text(target: Path, text: str) -> None:
    with whole_file(target) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(target: Path, document: Any) -> None:
    write_text(target, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


@contextmanager
def whole_directory(target: Path) -> Iterator[Path]:
    """A new folder that takes the target's place once it is complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(target)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        put_in_place(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def put_in_place(complete: Path, target: Path) -> None:
    """Move a folder to where `target` is, in its place if it is there."""
    flush_all(complete)
    replaced = target.parent / f".{target.name}.replaced-{os.getpid()}"
    if target.exists():
        os.replace(target, replaced)
    os.replace(complete, target)
    flush(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def flush_all(folder: Path) -> None:
    """Bring a folder to disk, with what is in it. What links point to is somebody else's."""
    for path in folder.rglob("*"):
        if not path.is_symlink():
            flush(path)
    flush(folder)


def flush(path: Path) -> None:
    """Bring a file's content to disk, or which entries a folder has."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_remote(path: Path) -> bool:
    """Whether a path lies on a file system that shows what is written to other hosts only once it
    was flushed (NFS, SMB); as far as Linux tells.
    """
    best, kind = "", ""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    resolved = path.resolve()
    for line in mounts:
        _, where, found, *_ = line.split(" ")
        where = where.replace("\\040", " ")
        if resolved.is_relative_to(where) and len(where) >= len(best):
            best, kind = where, found
    return kind.startswith(REMOTE)


def _beside(target: Path) -> Path:
    """A hidden name by which what a killed process left behind is known."""
    return target.with_name(f".{target.name}.partial-{os.getpid()}")
