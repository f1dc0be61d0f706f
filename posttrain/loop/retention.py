"""Which journal files may go: those that nobody will read again.

A file stays while a group in it is buffered, served since the last commit or still open, and while
its engine may still hold half-generated samples in it. Engines move those into a new segment after
each commit, so a segment is safe to remove from the second commit on after it was left.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from pathlib import Path

from posttrain.files import flush
from posttrain.loop.fleet import Link

PATTERN = "*.journal"


class JournalRetention:
    """The journal files of one stage. Without a folder it knows of none."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._left_before: set[str] = set()  # segments that were not their engines' newest

    def all(self) -> set[str]:
        if self._folder is None or not self._folder.exists():
            return set()
        return {str(path) for path in self._folder.glob(PATTERN)}

    def of(self, link: Link) -> set[str]:
        """The files of one engine's process."""
        return set(_by_process(self.all()).get(f"{link.name}-{link.process}", ()))

    def flush(self, wanted: Set[str]) -> None:
        """Bring files to disk, before a checkpoint speaks of what is in them."""
        if self._folder is not None:
            for path in self.all() & wanted:
                flush(Path(path))
            flush(self._folder)

    def committed(self, wanted: Set[str], links: Iterable[Link]) -> list[str]:
        """Remove what nobody needs after a commit; the files removed."""
        files = _by_process(self.all())
        alive = {f"{link.name}-{link.process}" for link in links}
        newest = {max(own) for process, own in files.items() if process in alive}
        left = {path for own in files.values() for path in own} - newest
        removable = (left & self._left_before) - wanted
        for path in removable:
            Path(path).unlink(missing_ok=True)
        self._left_before = left
        return sorted(removable)


def _by_process(paths: Iterable[str]) -> dict[str, list[str]]:
    """Files by `<engine>-<process>`; a segment's number stands behind it, with leading zeros."""
    files: dict[str, list[str]] = {}
    for path in paths:
        files.setdefault(Path(path).name.rpartition("-")[0], []).append(path)
    return files
