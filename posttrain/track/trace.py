"""The trace of a stage: `trace.json`, opened with ui.perfetto.dev or chrome://tracing.

The file is an array of trace events, one per line, as the JSON form of Chrome's trace format has
it. The closing bracket may be missing in that form, so the file can be opened at any moment and
after any kill; a torn last line is cut off before more is appended.

    [
    {"ph":"M","name":"thread_name","pid":1,"tid":1000000,"args":{"name":"engine 0"}},
    {"ph":"X","name":"generate","pid":1,"tid":1000000,"ts":1763630010000000,"dur":1000000,...},
    {"ph":"C","name":"engine/running","pid":1,"ts":1763630011000000,"args":{"value":41}},

Times are microseconds since 1970. Spans of one track that overlap get rows of their own.

Bounded: a file of 16 MB (about 120,000 spans: viewers become slow beyond that) becomes
`trace-0001.json.gz`, and of those the newest 8 are kept, so that a run of weeks leaves tens of
megabytes, of its end, and not a full disk. Every file can be opened by itself.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from posttrain.track.jsonl import encode_line
from posttrain.track.spans import Span
from posttrain.track.trace_rows import Rows, row_number

FILE_NAME = "trace.json"
MAX_FILE_BYTES = 16 << 20
KEPT_FILES = 8  # of the full ones, compressed
WRITE_EVERY_S = 1.0
WRITE_BYTES = 1 << 18

_PID = 1


class TraceWriter:
    """Appends spans and counters to the trace of one stage folder. One writer per folder.

    Nothing here raises for a full disk: what cannot be written is left out, counted and said.
    """

    def __init__(
        self, directory: Path, stage: str, on_problem: Callable[[str], None] | None = None
    ) -> None:
        self.path = Path(directory) / FILE_NAME
        self.left_out = 0  # spans not in any file
        self._stage = stage
        self._on_problem = on_problem
        self._lock = threading.Lock()
        self._rows: dict[str, Rows] = {}
        self._named: set[int] = set()  # rows whose name stands in the present file
        self._pending = bytearray()
        self._written_at = time.monotonic()
        self._descriptor: int | None = None
        self._size = 0
        self._failing = False

    def spans(self, spans: Iterable[Span]) -> None:
        """Keep spans; they are in the file a second later at most, where calls go on."""
        with self._lock:
            for span in spans:
                self._span(span)
            self._write_if_due()

    def counters(self, at_s: float, values: Mapping[str, float]) -> None:
        """Curves under the rows: `engine/running`, `age/buffer_groups`, ..."""
        with self._lock:
            for name, value in values.items():
                self._event("C", name, ts=_micros(at_s), args={"value": value})
            self._write_if_due()

    def flush(self) -> None:
        with self._lock:
            self._write()

    def close(self) -> None:
        """Write what is kept and let the file go; its closing bracket is left out on purpose: a
        resumed stage goes on in it.
        """
        with self._lock:
            self._write()
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def _span(self, span: Span) -> None:
        if not (math.isfinite(span.start_s) and math.isfinite(span.end_s)):
            self.left_out += 1
            return
        start, end = span.start_s, max(span.start_s, span.end_s)
        rows = self._rows.setdefault(span.track, Rows())
        row = rows.place(start, end)
        if row is None:
            self.left_out += 1
            return
        number = row_number(span.track, row)
        if number not in self._named:
            self._named.add(number)
            label = span.track if row == 0 else f"{span.track} ({row + 1})"
            self._event("M", "thread_name", tid=number, args={"name": label})
            self._event("M", "thread_sort_index", tid=number, args={"sort_index": number})
        self._pending += _bar(number, span.name, _micros(start), _micros(end), span.details)

    def _event(self, phase: str, name: str, **fields: Any) -> None:
        line = encode_line({"ph": phase, "name": name, "pid": _PID, **fields})
        self._pending += line[:-1] + b",\n"

    def _write_if_due(self) -> None:
        late = time.monotonic() - self._written_at >= WRITE_EVERY_S
        if late or len(self._pending) >= WRITE_BYTES:
            self._write()

    def _write(self) -> None:
        """Append what is kept, whole or not at all, and begin a new file where this one is full."""
        self._written_at = time.monotonic()
        if not self._pending:
            return
        data, self._pending = bytes(self._pending), bytearray()
        try:
            if self._descriptor is None:
                self._open()
            assert self._descriptor is not None
            if os.write(self._descriptor, data) < len(data):
                os.ftruncate(self._descriptor, self._size)
                raise OSError(28, "No space left on device")
        except OSError as error:
            self._lost(data, error)
            return
        self._failing = False
        self._size += len(data)
        if self._size >= MAX_FILE_BYTES:
            self._put_away()

    def _open(self) -> None:
        """Begin the file, or go on in the one that an earlier attempt left."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self.path, flags, 0o644)
        size = os.fstat(descriptor).st_size
        tail = os.pread(descriptor, 1 << 16, max(0, size - (1 << 16)))
        self._size = size - (len(tail) - (tail.rfind(b"\n") + 1))
        os.ftruncate(descriptor, self._size)
        if self._size == 0:
            name = {"ph": "M", "name": "process_name", "pid": _PID, "args": {"name": self._stage}}
            self._size = os.write(descriptor, b"[\n" + encode_line(name)[:-1] + b",\n")
        self._descriptor = descriptor

    def _lost(self, data: bytes, error: OSError) -> None:
        self.left_out += data.count(b'{"ph":"X"')
        self._named.clear()  # their names may be among what was lost
        if not self._failing and self._on_problem is not None:
            reason = (error.strerror or str(error)).lower()
            self._on_problem(f"{FILE_NAME} cannot be written ({reason}); spans are left out")
        self._failing = True

    def _put_away(self) -> None:
        """The full file gets a number and is compressed beside the work; the oldest are removed."""
        assert self._descriptor is not None
        os.close(self._descriptor)
        self._descriptor = None
        self._named.clear()
        full = self.path.with_name(f"trace-{_next_number(self.path.parent):04d}.json")
        self.path.replace(full)
        threading.Thread(target=_compress, args=(full,), name="trace-gzip", daemon=True).start()


def _bar(row: int, name: str, start: int, end: int, details: Mapping[str, Any]) -> bytes:
    """One span's line, by hand: thousands a second come through here."""
    args = encode_line(details)[:-1] if details else b"{}"
    head = f'{{"ph":"X","name":{json.dumps(name)},"pid":{_PID},"tid":{row},"ts":{start},'
    return b"%s%s%s},\n" % (head.encode(), f'"dur":{end - start},"args":'.encode(), args)


def _micros(seconds: float) -> int:
    return round(seconds * 1_000_000)


def trace_files(directory: Path) -> list[Path]:
    """All files of a stage's trace, oldest first."""
    last = directory / FILE_NAME
    return [*_full_files(directory), *([last] if last.exists() else [])]


def _full_files(directory: Path) -> list[Path]:
    found = [*directory.glob("trace-*.json"), *directory.glob("trace-*.json.gz")]
    return sorted(found, key=lambda path: path.name)


def _next_number(directory: Path) -> int:
    numbers = [path.name[6:10] for path in _full_files(directory)]
    return max((int(number) for number in numbers if number.isdigit()), default=0) + 1


def _compress(full: Path) -> None:
    """Also removes what is older than the newest `KEPT_FILES`. Trouble leaves the file as it is."""
    packed = full.with_name(f"{full.name}.gz")
    part = full.with_name(f".{packed.name}.part")
    with contextlib.suppress(OSError):
        with full.open("rb") as plain, gzip.open(part, "wb", compresslevel=3) as stream:
            shutil.copyfileobj(plain, stream, 1 << 20)
        part.replace(packed)
        full.unlink()
    for old in _full_files(full.parent)[:-KEPT_FILES]:
        old.unlink(missing_ok=True)
