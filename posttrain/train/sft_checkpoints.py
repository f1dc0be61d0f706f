"""Folders written by transformers' Trainer, made atomic.

The Trainer writes its folder file by file and may die in between. Here it writes into a hidden
folder, which is flushed, renamed, and only then named by the pointer `latest.json`. What a crash
leaves behind is never named and is removed when the next one is written.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

POINTER = "latest.json"
KEPT = 2


class FolderCheckpoints:
    """Checkpoint folders of one stage: `begin`, let the Trainer write, `commit`."""

    def __init__(self, directory: Path, keep: int = KEPT) -> None:
        self._directory = directory
        self._keep = keep

    def latest(self) -> Path | None:
        """The newest whole folder; None before the first, or where its files are cut short."""
        try:
            pointer = json.loads((self._directory / POINTER).read_text())
        except FileNotFoundError:
            return None
        folder = self._directory / pointer["name"]
        return folder if _sizes(folder) == pointer["sizes"] else None

    def begin(self, step: int) -> Path:
        """An empty folder for this step; the same on every rank."""
        partial = self._directory / f".step-{step:06d}.partial"
        partial.mkdir(parents=True, exist_ok=True)
        return partial

    def commit(self, step: int, written: Path) -> Path:
        """Make `written`, inside the folder that `begin` gave, the newest checkpoint."""
        final = self._directory / f"step-{step:06d}"
        for file in written.rglob("*"):
            _flush(file)
        shutil.rmtree(final, ignore_errors=True)
        written.rename(final)
        _flush(self._directory)
        pointer = self._directory / f".{POINTER}.partial"
        pointer.write_text(json.dumps({"name": final.name, "sizes": _sizes(final)}))
        _flush(pointer)
        pointer.replace(self._directory / POINTER)
        _flush(self._directory)
        self._clean()
        return final

    def clear(self) -> None:
        """Remove all: the stage is done, and its model folder holds what is needed."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def _clean(self) -> None:
        for folder in sorted(self._directory.glob("step-*"))[: -self._keep]:
            shutil.rmtree(folder, ignore_errors=True)
        for folder in self._directory.glob(".step-*.partial"):
            shutil.rmtree(folder, ignore_errors=True)


def _sizes(folder: Path) -> dict[str, int]:
    return {
        str(file.relative_to(folder)): file.stat().st_size
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
