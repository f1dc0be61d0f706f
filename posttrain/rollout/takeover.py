"""What other engines have left behind of samples that this one shall generate now."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Sequence

from posttrain.rollout.journal import JournalContents, scan
from posttrain.rollout.samples import Partial, SampleKey
from posttrain.types import RolloutRef

MOST_FILES = 32  # whose contents are remembered
SMALL_FILE = 4 << 20  # bytes; a larger one is scanned beside the event loop


class Estate:
    """Journals that were looked into, each read once; again where it has grown meanwhile, or where
    it was looked into long ago.
    """

    def __init__(self) -> None:
        self._contents: dict[str, tuple[int, JournalContents]] = {}  # with the size read
        self._lock = asyncio.Lock()

    async def look(self, paths: Sequence[str]) -> list[JournalContents]:
        """The contents of these files; one that is gone counts as empty.

        Raises StageFailed where one is damaged in its middle.
        """
        async with self._lock:
            return [await self._of(path) for path in paths]

    async def _of(self, path: str) -> JournalContents:
        try:
            size = os.path.getsize(path)
            known = self._contents.pop(path, None)
            if known is None or known[0] != size:
                small = size <= SMALL_FILE
                known = size, scan(path) if small else await asyncio.to_thread(scan, path)
        except FileNotFoundError:
            return JournalContents()
        self._contents[path] = known  # the newest last
        if len(self._contents) > MOST_FILES:
            del self._contents[next(iter(self._contents))]
        return known[1]


def found_finished(
    key: SampleKey, journals: Iterable[JournalContents]
) -> tuple[RolloutRef, int, int] | None:
    """(where, start version, number of tokens) of a sample that somebody has finished."""
    return next((each.finished[key] for each in journals if key in each.finished), None)


def found_partial(key: SampleKey, journals: Iterable[JournalContents]) -> Partial | None:
    """The longest beginning of a sample."""
    beginnings = [each.partial[key] for each in journals if key in each.partial]
    return max(beginnings, key=lambda each: len(each.token_ids), default=None)
