"""Folders that appear whole or not at all, and a pointer to the newest of them.

A checkpoint is written into a hidden folder, flushed to disk, renamed, and only then named by the
commit pointer `latest.json`. Whatever a crash leaves behind, the pointer names a whole one. Older
ones are removed after the new one is committed, never before.

    checkpoints/step-000020/...    checkpoints/step-000040/...    checkpoints/latest.json
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from posttrain.errors import InputError, Problem
from posttrain.files import flush, flush_all, write_json

POINTER = "latest.json"
KEPT = 2


class CommittedFolders:
    """One folder per step: `begin`, write into it, `commit`. There is one writer at a time."""

    def __init__(self, directory: Path, keep: int = KEPT) -> None:
        self._directory = directory
        self._keep = keep

    def latest(self) -> Path | None:
        """The folder that the commit pointer names; None before the first.

        Raises InputError where the pointer names what is not there: somebody removed it by hand.
        """
        try:
            pointer = json.loads((self._directory / POINTER).read_text())
        except FileNotFoundError:
            return None
        folder = self._directory / pointer["name"]
        sizes = _sizes(folder)
        missing = [name for name, size in pointer["sizes"].items() if sizes.get(name) != size]
        if missing:
            raise InputError(
                Problem(
                    "checkpoint-damaged",
                    f"{', '.join(missing)} of the last checkpoint is missing or cut short",
                    path=str(folder),
                    help="remove the folder of the stage, to train it from its start",
                )
            )
        return folder

    def unneeded(self) -> list[Path]:
        """Whole checkpoints that the commit pointer does not name: nobody goes on from them.

        None where the named one is missing or damaged: whoever mends that may want all there is.
        """
        try:
            latest = self.latest()
        except (InputError, OSError, ValueError, KeyError):
            return []
        others = sorted(self._directory.glob("step-*")) if latest is not None else []
        return [path for path in others if path != latest]

    def begin(self, step: int) -> Path:
        """A hidden folder for this step; the same on every rank."""
        partial = self._directory / f".step-{step:06d}.partial"
        partial.mkdir(parents=True, exist_ok=True)
        return partial

    def abandon(self, step: int) -> None:
        """Remove what was begun."""
        shutil.rmtree(self._directory / f".step-{step:06d}.partial", ignore_errors=True)

    def commit(self, step: int, written: Path) -> Path:
        """Make `written`, the folder that `begin` gave or one inside it, the newest checkpoint."""
        final = self._directory / f"step-{step:06d}"
        flush_all(written)
        shutil.rmtree(final, ignore_errors=True)
        written.rename(final)
        flush(self._directory)
        self._point_to(final)
        self._retire(final)
        return final

    def clear(self) -> None:
        """Remove all: the model that they lead to is whole."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def _point_to(self, folder: Path) -> None:
        write_json(self._directory / POINTER, {"name": folder.name, "sizes": _sizes(folder)})

    def _retire(self, committed: Path) -> None:
        """Remove old checkpoints, never the committed one: a crash may have left a later folder.

        What killed writers left half-written goes too.
        """
        old = sorted(self._directory.glob("step-*"))[: -self._keep]
        for path in (*old, *self._directory.glob(".step-*")):
            if path != committed:
                shutil.rmtree(path, ignore_errors=True)


def _sizes(folder: Path) -> dict[str, int]:
    return {
        str(file.relative_to(folder)): file.stat().st_size
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
