"""The run folder: one directory per stage and identity, a manifest in each, one writer at a time.

A stage is done when its manifest says so; the manifest is replaced atomically and last, so that a
kill at any moment leaves either a finished stage or one that will be done again.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.errors import InputError, Problem
from posttrain.files import write_json
from posttrain.types import Artifact, ArtifactType

SCHEMA = 1
LOCK = "run.lock"  # in the run folder


def read_json(path: Path) -> dict[str, Any] | None:
    """The file's object, or None where it is missing or was never finished."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return value if isinstance(value, dict) else None


@dataclass(frozen=True, slots=True)
class StageFolder:
    """`runs/<name>/<stage>/<identity>/`."""

    path: Path
    stage: str
    identity: str

    @property
    def manifest(self) -> dict[str, Any] | None:
        return read_json(self.path / "manifest.json")

    @property
    def is_done(self) -> bool:
        manifest = self.manifest
        return bool(manifest and manifest["state"] == "done")

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "manifest.json", dict(manifest))

    def artifact(self, kind: ArtifactType) -> Artifact:
        names: dict[ArtifactType, str] = {"model": "model", "measurements": "measurements.json"}
        path = str((self.path / names.get(kind, kind)).resolve())
        return Artifact(kind, self.stage, self.identity, path)


@dataclass(frozen=True, slots=True)
class RunFolder:
    """`runs/<name>/`."""

    path: Path

    def stage(self, stage: str, identity: str) -> StageFolder:
        return StageFolder(self.path / stage / identity, stage, identity)

    def newest_done(self, stage: str) -> StageFolder | None:
        """The stage's most recently finished folder, whatever its identity."""
        done = [
            folder
            for path in (self.path / stage).glob("*/manifest.json")
            if (folder := self.stage(stage, path.parent.name)).is_done
        ]
        ended = [((folder.manifest or {}).get("ended") or 0.0, folder.identity) for folder in done]
        return self.stage(stage, max(ended)[1]) if ended else None

    def read(self) -> dict[str, Any]:
        return read_json(self.path / "run.json") or {}

    def write(self, run: Mapping[str, Any]) -> None:
        write_json(self.path / "run.json", dict(run))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One writer at a time. Raises InputError `run-in-use` where another process is alive.

        A kernel lock, so that it is gone with the process, however that ended; the file's text only
        says who holds it.
        """
        import fcntl

        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / LOCK).open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(self._in_use()) from None
            file.truncate(0)
            owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
            file.write(json.dumps(owner))
            file.flush()
            yield

    def is_being_written(self) -> bool:
        """Whether somebody holds the run's lock. Looks only: the lock is let go of at once."""
        import fcntl

        try:
            with (self.path / LOCK).open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def _in_use(self) -> Problem:
        owner = read_json(self.path / LOCK) or {}
        who = f"process {owner.get('pid', '?')} on {owner.get('host', '?')}"
        return Problem(
            "run-in-use",
            f"is being written by {who}",
            path=str(self.path),
            help=f"follow it: posttrain status; or a second one: --name {self.path.name}_b",
        )
