"""Folders that a run writes to: whether it may, and whether there is room."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from posttrain.doctor.finding import Finding
from posttrain.doctor.machine import gigabytes

SHARED_MEMORY = Path("/dev/shm")
# Ray's longest socket, below the folder for temporary files; the system takes so many characters.
LONGEST_SOCKET = (
    "/posttrain-4194304-ray/session_2026-11-29_22-36-13_183429_4194304/sockets/plasma_store"
)
MOST_SOCKET_CHARACTERS = 107
RAY_FULL_SHARE = 0.95  # Ray stores nothing more on a file system that is fuller
NO_RUN_BYTES = 500_000_000  # `run` refuses to start with less
LITTLE_BYTES = 5_000_000_000
SMALL_SHARED_BYTES = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Space:
    """A folder, or the nearest that is there above it."""

    path: Path
    total_bytes: int = 0
    free_bytes: int = 0
    exists: bool = True  # itself, not one above it
    writable: bool = True


def read_space(path: Path) -> Space:
    """Never raises: what cannot be read cannot be written."""
    try:
        nearest = path.expanduser().absolute()
        while not nearest.exists() and nearest != nearest.parent:
            nearest = nearest.parent
        usage = shutil.disk_usage(nearest)
        may = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
        return Space(path, usage.total, usage.free, path.expanduser().exists(), may)
    except OSError:
        return Space(path, exists=False, writable=False)


def storage_findings(runs: Space, temporary: Space, shared: Space) -> list[Finding]:
    """Of the folder of runs, of that for temporary files, and of shared memory."""
    return [runs_finding(runs), temporary_finding(temporary), shared_finding(shared)]


def read_storage(runs_dir: Path) -> tuple[Space, Space, Space]:
    """(runs, temporary files, shared memory)"""
    try:
        temporary = read_space(Path(tempfile.gettempdir()))
    except OSError:  # no folder at all that can be written
        temporary = Space(Path("/tmp"), exists=False, writable=False)
    return read_space(runs_dir), temporary, read_space(SHARED_MEMORY)


def runs_finding(space: Space, needed_bytes: int = NO_RUN_BYTES, whose: str = "a run") -> Finding:
    """`needed_bytes` is what must be free for `whose` run to start."""
    if not space.writable:
        help = "posttrain run FILE --runs-dir DIRECTORY"
        return Finding("disk", "act", f"{space.path} cannot be written", help)
    text = f"{gigabytes(space.free_bytes)} free in {space.path}"
    free = "posttrain clean   (says what it could free)"
    if space.free_bytes < needed_bytes:
        needs = f"{text}, {whose} needs about {gigabytes(needed_bytes)}"
        return Finding("disk", "act", needs, free)
    if space.free_bytes < LITTLE_BYTES:
        return Finding("disk", "watch", text, free)
    return Finding("disk", "ok", text)


def temporary_finding(space: Space) -> Finding:
    """Ray keeps sockets and logs of a local session here while a run lasts."""
    name, path = "temporary", str(space.path)
    if not space.writable:
        return Finding(name, "act", f"{path} cannot be written", "export TMPDIR=DIRECTORY")
    if len(path.rstrip("/") + LONGEST_SOCKET) > MOST_SOCKET_CHARACTERS:
        text = f"{path} is too long a path for Ray's sockets"
        return Finding(name, "act", text, "export TMPDIR=/tmp")
    text = f"{gigabytes(space.free_bytes)} free in {path}"
    if space.total_bytes - space.free_bytes > RAY_FULL_SHARE * space.total_bytes:
        text += f": over {100 * RAY_FULL_SHARE:.0f} % full, where Ray stores nothing more"
        return Finding(name, "watch", text, "export TMPDIR=DIRECTORY")
    return Finding(name, "ok", text)


def shared_finding(space: Space) -> Finding:
    """Weights travel from trainers to engines of the same host through shared memory."""
    name = "shared memory"
    if not space.exists or not space.writable:
        help = f"mount -t tmpfs -o size=8g tmpfs {SHARED_MEMORY}   (as root)"
        return Finding(name, "act", f"no {space.path} that can be written", help)
    text = f"{gigabytes(space.free_bytes)} free in {space.path}"
    if space.free_bytes >= SMALL_SHARED_BYTES:
        return Finding(name, "ok", text)
    if space.total_bytes >= SMALL_SHARED_BYTES:
        return Finding(name, "watch", text, f"ls -l {space.path}; posttrain clean --processes")
    text += ": two copies of a model's weights must fit, and Ray's objects"
    return Finding(name, "watch", text, "docker run --shm-size=8g ...")
