"""The folder in shared memory that weight files live in, and how it goes away again.

Shared memory survives its writer: a killed run would hold gigabytes until the host restarts. So
each folder carries a file that its owner keeps locked; the kernel lets go of the lock when the
owner dies, however it dies, and any later run may then remove the folder.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

PARENT = Path("/dev/shm")
PREFIX = "posttrain-"
OWNER_FILE = "owner"
OWNED_NAME = re.compile(rf"{PREFIX}\d+-")


def memory_name() -> str:
    """Names this process's shared memory: two that have the same name see the same files in it.

    A host's name would not do: containers on one host may each have a memory of their own, and two
    may go by one name.
    """
    boot = Path("/proc/sys/kernel/random/boot_id")
    host = boot.read_text().strip() if boot.exists() else socket.gethostname()
    device = PARENT.stat().st_dev if PARENT.is_dir() else 0
    return f"{host}/{device}"


class SharedDirectory:
    """`with SharedDirectory("quickstart") as folder: write_weights(..., folder.path, ...)`.

    The path is /dev/shm/posttrain-<pid>-<run id>; it is removed at the end of the block. A second
    one of the same process and run is refused with FileExistsError.
    """

    def __init__(self, run_id: str, parent: str | Path = PARENT) -> None:
        safe = re.sub(r"[^A-Za-z0-9_.-]", "_", run_id)
        self.path = Path(parent) / f"{PREFIX}{os.getpid()}-{safe}"
        self._lock: int | None = None

    def __enter__(self) -> SharedDirectory:
        while True:
            self.path.mkdir(mode=0o700)
            lock = os.open(self.path / OWNER_FILE, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.fstat(lock).st_nlink > 0:
                self._lock = lock
                return self
            os.close(lock)  # before it was locked another run saw no owner, and removed it

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the folder; readers that have a file mapped keep it. May be called twice."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def orphans(parent: str | Path = PARENT) -> list[Path]:
    """The folders whose owner is dead. Looks only; another user's count as owned."""
    return [folder for folder in _owned_folders(parent) if _free(folder, fcntl.LOCK_SH)]


def remove_orphans(parent: str | Path = PARENT) -> list[Path]:
    """Remove the folders whose owner is dead, and return them. Folders of live owners stay."""
    return [
        folder
        for folder in _owned_folders(parent)
        # Removed while still locked: an owner to be has to wait.
        if _free(folder, fcntl.LOCK_EX, lambda f: shutil.rmtree(f, ignore_errors=True))
    ]


def _owned_folders(parent: str | Path) -> list[Path]:
    return [
        path
        for path in sorted(Path(parent).glob(f"{PREFIX}*"))
        if path.is_dir() and OWNED_NAME.match(path.name)
    ]


def _free(folder: Path, lock_kind: int, then: Callable[[Path], None] = lambda folder: None) -> bool:
    """Whether a folder's owner is dead, in which case `then` is called with it; False where it is
    not ours to look at.
    """
    try:
        lock = os.open(folder / OWNER_FILE, os.O_RDWR)
    except FileNotFoundError:
        # Between mkdir and the owner's file a live owner looks like this; a dead one's pid is gone.
        if _alive(folder):
            return False
        then(folder)
        return True
    except OSError:
        return False  # another user's
    try:
        fcntl.flock(lock, lock_kind | fcntl.LOCK_NB)
        then(folder)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(lock)


def _alive(folder: Path) -> bool:
    match = re.match(rf"{PREFIX}(\d+)-", folder.name)
    return match is not None and Path(f"/proc/{match.group(1)}").exists()
