"""Processes and folders of runs whose driver is gone: what a killed run leaves on a machine.

A local Ray session lives in a folder `posttrain-<pid of the driver>-ray`, and whatever it starts
inherits that folder's name. The folder carries a file that the driver keeps locked; the lock is
gone with the driver. So a process is left over if it names a session whose driver is gone, and
nothing that a living run started ever is. Imports no ray.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from posttrain.weight_sync.shared_directory import PARENT, PREFIX, orphans, remove_orphans

GRACE_S = 5.0
_SESSION = re.compile(rf"(/(?:[^\s:]*/)?{PREFIX}(\d+)-ray)(?=[/\s:]|$)")


@dataclass(frozen=True, slots=True)
class Leftover:
    """A process of a session whose driver is gone."""

    pid: int
    name: str
    driver_pid: int


@dataclass(frozen=True, slots=True)
class Session:
    """A Ray session of ours, as one of its processes names it."""

    folder: Path
    driver_pid: int


def session_named(texts: Iterable[str]) -> Session | None:
    """The session that a process's TMPDIR or arguments name; of nested ones the innermost.

    Example: ["TMPDIR=/tmp/posttrain-4121-ray/tmp"] names Session(/tmp/posttrain-4121-ray, 4121).
    """
    for text in texts:
        if found := _SESSION.search(text):
            return Session(Path(found[1]), int(found[2]))
    return None


def is_gone(session: Session, orphaned: Iterable[Path], is_alive: Callable[[int], bool]) -> bool:
    """Whether the driver is gone: its lock is free, or the folder was removed and no such process
    lives.

    A number may be in use again by another process: then the session counts as alive.
    """
    if session.folder in set(orphaned):
        return True
    return not session.folder.exists() and not is_alive(session.driver_pid)


def leftover_processes() -> list[Leftover]:
    """This user's processes whose driver is gone; those that may not be looked at are none."""
    own = psutil.Process()
    found = []
    orphaned: dict[Path, list[Path]] = {}
    for process in psutil.process_iter():
        if process.pid == own.pid:
            continue
        with contextlib.suppress(psutil.Error, OSError):
            if process.uids().real != own.uids().real:
                continue
            session = session_named(_texts(process.environ(), process.cmdline()))
            if session is None:
                continue
            parent = session.folder.parent
            orphaned.setdefault(parent, orphans(parent))
            if is_gone(session, orphaned[parent], psutil.pid_exists):
                found.append(Leftover(process.pid, process.name(), session.driver_pid))
    return found


def _texts(environment: Mapping[str, str], arguments: Sequence[str]) -> list[str]:
    return [environment.get("TMPDIR", ""), *arguments]


def leftover_folders() -> list[Path]:
    """Folders of sessions and of weights in shared memory whose owner is gone."""
    return [*orphans(PARENT), *orphans(tempfile.gettempdir())]


def end_leftovers(found: Iterable[Leftover], grace_s: float = GRACE_S) -> list[int]:
    """Ask each process to end, and kill what still lives after `grace_s` seconds. Returns the
    numbers of those that live on all the same.

    Each is looked at once more first: its number may belong to another process by now.
    """
    asked = []
    still_left = {(each.pid, each.driver_pid) for each in leftover_processes()}
    for each in found:
        with contextlib.suppress(psutil.Error):
            if (each.pid, each.driver_pid) in still_left:
                process = psutil.Process(each.pid)
                process.terminate()
                asked.append(process)
    _, alive = psutil.wait_procs(asked, grace_s)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    _, alive = psutil.wait_procs(alive, grace_s)
    return sorted(process.pid for process in alive)


def remove_leftover_folders() -> list[Path]:
    """Remove what `leftover_folders` lists, after its processes were ended."""
    return [*remove_orphans(PARENT), *remove_orphans(tempfile.gettempdir())]
