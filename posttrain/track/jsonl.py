"""Append-only JSON lines: written so that a kill or a full disk costs nothing, read tolerantly.

A line reaches the file in one `write` call, so that readers and other writers never see half of it
(except after a crash or on a full disk, which the reader survives by ignoring what does not parse).
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

MAX_WAITING_LINES = 200_000  # kept in memory while the disk is full: about 100 MB of metrics


def encode_line(row: Mapping[str, Any]) -> bytes:
    """One line of strict JSON with its newline; NaN and infinities become null, arrays lists."""
    text = json.dumps(_plain(row), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy and torch scalars and arrays
        return _plain(value.tolist())
    return str(value)


class JsonlWriter:
    """Appends rows to one file. `append` never raises and never blocks on anything but the disk.

    Lines that cannot be written stay in memory and go first at the next try; the first failure of a
    row of failures is told to `on_problem`, the recovery too.
    """

    def __init__(self, path: Path, on_problem: Callable[[str], None] | None = None) -> None:
        self.path = Path(path)
        self.dropped = 0  # lines given up because too many were waiting
        self._on_problem = on_problem
        self._waiting: deque[bytes] = deque()
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._failing = False

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row, or keep it for later."""
        line = encode_line(row)
        with self._lock:
            if len(self._waiting) >= MAX_WAITING_LINES:
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append(line)
            said = self._try_to_write()
        if said and self._on_problem is not None:
            self._on_problem(said)

    def close(self) -> None:
        """Try once more to write what is waiting, then let the file go."""
        with self._lock:
            self._try_to_write()
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    @property
    def waiting(self) -> int:
        """Lines not yet in the file."""
        return len(self._waiting)

    def _try_to_write(self) -> str:
        """Write waiting lines in order; returns a sentence where that changed."""
        try:
            if self._descriptor is None:
                self._descriptor = _open_for_append(self.path)
            while self._waiting:
                line = self._waiting[0]
                written = os.write(self._descriptor, line)
                if written < len(
                    line
                ):  # the disk filled up inside the line: the rest goes on later
                    self._waiting[0] = line[written:]
                    raise OSError(28, "no space left on device")
                self._waiting.popleft()
        except OSError as error:
            if self._failing:
                return ""
            self._failing = True
            reason = (error.strerror or str(error)).lower()
            return f"{self.path.name} cannot be written ({reason}); lines are kept and tried again"
        if self._failing:
            self._failing = False
            lost = f", {self.dropped} lines were lost" if self.dropped else ", nothing was lost"
            return f"{self.path.name} is written again{lost}"
        return ""


def _open_for_append(path: Path) -> int:
    """Open, and end a line that a killed writer left torn, so that the next one stands alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        os.write(descriptor, b"\n")
    return descriptor


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All rows that parse, in order; a missing file has none, a torn line is left out."""
    return JsonlFollower(path).read_new()


class JsonlFollower:
    """Reads what was appended since the last call; a line without its newline waits for it."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._offset = 0

    def read_new(self) -> list[dict[str, Any]]:
        """The new whole rows. A file that became shorter is read from its start again."""
        return list(self.new_rows())

    def new_rows(self) -> Iterator[dict[str, Any]]:
        """The same, of which only one need be in memory."""
        try:
            with self.path.open("rb") as stream:
                if os.fstat(stream.fileno()).st_size < self._offset:
                    self._offset = 0
                stream.seek(self._offset)
                for line in stream:
                    if not line.endswith(b"\n"):
                        return
                    self._offset += len(line)
                    if (row := _parse(line)) is not None:
                        yield row
        except OSError:
            return  # not there yet, or gone: nothing new


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None  # torn by a crash
    return row if isinstance(row, dict) else None
