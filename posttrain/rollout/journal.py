"""What an engine has generated, in files that outlive it and that every process can read.

    <engine>-<process>-<segment>.journal:  record record record ...

A *finished* record holds a whole sample, so a RolloutRef (file and offset) is all it takes to read
one. A *progress* record holds the tokens of a half-generated sample from one position on. Records
are only ever appended, in one write each and without fsync: the operating system keeps them when
the process is killed, and a checkpoint flushes those that it speaks of. (On NFS finished ones are
flushed at once: other hosts would not see them.) A record that was being written then is cut short;
it is noticed and dropped.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from posttrain.errors import StageFailed
from posttrain.files import is_remote
from posttrain.rollout.journal_record import (
    FINISHED,
    HEADER,
    MAGIC,
    PROGRESS,
    Record,
    decode,
    encode,
)
from posttrain.rollout.samples import Partial, SampleKey
from posttrain.types import Lane, Rollout, RolloutRef

PAGE = 4096  # bytes that come to disk together, or are zeros there
FIRST_READ = 1 << 16  # bytes; most records are shorter, so one read is enough


class WholeSample(NamedTuple):
    """A finished sample of a file."""

    ref: RolloutRef
    start_version: int
    num_tokens: int
    newest_version: int  # that a token of it was generated under


@dataclass(slots=True)
class JournalContents:
    """What one file holds. A finished sample does not stand among the partial ones."""

    finished: dict[SampleKey, WholeSample] = field(default_factory=dict)
    partial: dict[SampleKey, Partial] = field(default_factory=dict)
    num_torn: int = 0  # places where records are cut short


class JournalWriter:
    """Appends records to one segment after the other. Belongs to one thread.

    Raises StageFailed where the disk refuses; nothing half-written stays behind then.
    """

    def __init__(self, directory: Path, engine: str, process: str) -> None:
        self._prefix = str(directory.absolute() / f"{engine}-{process}")
        self._segment = -1
        self._descriptor = -1
        directory.mkdir(parents=True, exist_ok=True)
        self._is_remote = is_remote(directory)
        self._begin_segment()

    @property
    def path(self) -> str:
        """The present segment's file, absolute."""
        return f"{self._prefix}-{self._segment:06d}.journal"

    def finished(self, lane: Lane, draw: int, rollout: Rollout, start_version: int) -> RolloutRef:
        """Write a whole sample down; where it lies from now on."""
        return self.finished_many([(lane, draw, rollout, start_version)])[0]

    def finished_many(self, samples: Sequence[tuple[Lane, int, Rollout, int]]) -> list[RolloutRef]:
        """The same for several samples (lane, draw, rollout, start version) in one write."""
        refs = self._append(
            [
                Record(
                    FINISHED,
                    (lane, draw, rollout.sample),
                    0,
                    Partial(rollout.token_ids, rollout.logprobs, rollout.versions, start_version),
                    rollout.mask,
                    rollout.text,
                    rollout.finish,
                )
                for lane, draw, rollout, start_version in samples
            ]
        )
        if self._is_remote and refs:
            os.fsync(self._descriptor)  # a trainer on another host reads them next
        return refs

    def progress(
        self,
        lane: Lane,
        draw: int,
        sample: int,
        from_token: int,
        tokens: Sequence[int],
        logprobs: Sequence[float],
        versions: Sequence[int],
        start_version: int,
    ) -> None:
        """Write down what a half-generated sample consists of from token `from_token` on.

        The tokens before it have to stand in the same segment.
        """
        partial = Partial(tuple(tokens), tuple(logprobs), tuple(versions), start_version)
        mask = (1,) * len(partial.token_ids)
        key = (lane, draw, sample)
        self._append([Record(PROGRESS, key, from_token, partial, mask, "", "length")])

    def rotate(self) -> None:
        """Begin a new segment; an empty one is kept."""
        if self._offset > 0:
            os.close(self._descriptor)
            self._begin_segment()

    def close(self) -> None:
        """Twice is fine."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _begin_segment(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        while True:
            self._segment += 1
            with contextlib.suppress(FileExistsError):
                self._descriptor = os.open(self.path, flags, 0o644)
                break
        self._offset = 0

    def _append(self, records: Sequence[Record]) -> list[RolloutRef]:
        parts = [encode(record) for record in records]
        rest = memoryview(b"".join(parts))
        begin = self._offset
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
                # A write is cut short where the disk gets full; the next one says so.
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, begin)
            raise StageFailed(
                f"cannot write down a rollout: {error.strerror}",
                place=self.path,
                help="make room on that disk and run again; finished rollouts are kept",
            ) from error
        refs, path = [], self.path
        for part in parts:
            refs.append(RolloutRef(path, self._offset))
            self._offset += len(part)
        return refs


def read_rollout(ref: RolloutRef, group_id: str, prompt_ids: tuple[int, ...]) -> Rollout:
    """The finished sample at `ref`. Raises StageFailed where there is none."""
    try:
        descriptor = os.open(ref.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.pread(descriptor, FIRST_READ, ref.offset)
            length = HEADER.size + HEADER.unpack_from(data)[2] if len(data) >= HEADER.size else 0
            if length > len(data) == FIRST_READ:
                data += os.pread(descriptor, length - len(data), ref.offset + len(data))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StageFailed(
            f"a rollout cannot be read: {error.strerror}",
            place=ref.path,
            help="every node has to see the run's folder under the same path",
        ) from error
    found = decode(data, 0, len(data))
    if found is None or found[0].kind != FINISHED:
        raise _damaged(ref.path, ref.offset)
    record = found[0]
    tokens = record.tokens
    return Rollout(
        group_id,
        record.key[2],
        prompt_ids,
        tokens.token_ids,
        record.mask,
        tokens.logprobs,
        tokens.versions,
        record.text,
        record.finish,
    )


def is_whole(ref: RolloutRef) -> bool:
    """Whether a finished sample lies there: not if the power was cut before it was on disk."""
    try:
        read_rollout(ref, "", ())
    except StageFailed:
        return False
    return True


def scan(path: str | Path) -> JournalContents:
    """Everything in one journal file.

    What was cut short at the end is left out and counted, and so is what a power cut has taken out
    of the middle. Raises StageFailed, naming the offset, where a record is damaged in another way,
    and FileNotFoundError without a file.
    """
    contents = JournalContents()
    path = str(path)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:  # cannot be mapped
            return contents
        with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data:
            for offset, record in _records(data, size, path):
                if record is None:
                    contents.num_torn += 1
                else:
                    _put(contents, path, offset, record)
    return contents


def _records(data: mmap.mmap, size: int, path: str) -> Iterator[tuple[int, Record | None]]:
    """(offset, record) of each; None for what was cut short at the end, or never came to disk."""
    offset = 0
    while offset < size:
        found = decode(data, offset, size)
        if found is not None:
            yield offset, found[0]
            offset = found[1]
            continue
        yield offset, None
        whole = data.find(MAGIC, offset + 1)
        while whole >= 0 and decode(data, whole, size) is None:
            whole = data.find(MAGIC, whole + 1)
        if whole < 0:
            return
        if not _has_hole(data, offset, whole):
            raise _damaged(path, offset)
        offset = whole


def _has_hole(data: mmap.mmap, begin: int, end: int) -> bool:
    """Whether a page in between never came to disk."""
    first = -(-begin // PAGE) * PAGE
    return any(not any(data[at : at + PAGE]) for at in range(first, end - PAGE + 1, PAGE))


def _put(contents: JournalContents, path: str, offset: int, record: Record) -> None:
    key, new = record.key, record.tokens
    if record.kind == FINISHED:
        newest = max(new.versions, default=new.start_version)
        whole = WholeSample(RolloutRef(path, offset), new.start_version, len(new.token_ids), newest)
        contents.finished.setdefault(key, whole)
        contents.partial.pop(key, None)
        return
    old = contents.partial.get(key, Partial((), (), (), new.start_version))
    known = record.from_token
    if key in contents.finished or known > len(old.token_ids):
        return  # too late, or its beginning is missing: what we have is right as it is
    contents.partial[key] = Partial(
        old.token_ids[:known] + new.token_ids,
        old.logprobs[:known] + new.logprobs,
        old.versions[:known] + new.versions,
        new.start_version,
    )


def _damaged(path: str, offset: int) -> StageFailed:
    return StageFailed(
        f"the journal record at byte {offset} is damaged",
        place=path,
        help="the disk lost what was written; restore the file, or remove the stage's folder to do "
        "the stage again",
    )
