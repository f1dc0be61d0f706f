"""What other engines have left behind of samples that this one shall generate now.

After a power cut journals may hold more than the ledger: tokens of versions that training, which
goes on from its checkpoint, has not come to again. Those are left out.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Sequence

from posttrain.rollout.journal import JournalContents, WholeSample, scan
from posttrain.rollout.samples import Partial, SampleKey

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
    key: SampleKey, journals: Iterable[JournalContents], newest_version: int
) -> WholeSample | None:
    """A sample that somebody has finished, with no token of a newer version."""
    found = (each.finished[key] for each in journals if key in each.finished)
    return next((each for each in found if each.newest_version <= newest_version), None)


def found_partial(
    key: SampleKey, journals: Iterable[JournalContents], newest_version: int
) -> Partial | None:
    """The longest beginning of a sample, with no token of a newer version."""
    found = (each.partial[key] for each in journals if key in each.partial)
    sound = [each for each in found if max(each.versions, default=0) <= newest_version]
    return max(sound, key=lambda each: len(each.token_ids), default=None)
