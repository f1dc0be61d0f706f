"""Rows of the trace: which number a track has, and where spans go that overlap."""

from __future__ import annotations

import math
import zlib

MAX_ROWS = 16  # of one track; of spans that overlap more deeply, those without room are left out
REMEMBERED = 256  # spans per row that a late one is compared with

_TRACKS = ("coordinator", "engine", "trainer", "rewards")  # in this order on the screen


class Rows:
    """Rows of one track. In a row, spans lie one after another or one inside another."""

    def __init__(self) -> None:
        self._rows: list[list[tuple[float, float]]] = []  # outermost spans, in order
        self._forgotten_until: list[float] = []

    def place(self, start: float, end: float) -> int | None:
        """The row where a span fits; None where all are taken. Spans come by their ends."""
        for index, row in enumerate(self._rows):
            if start >= self._forgotten_until[index] and _put(row, start, end):
                if len(row) > REMEMBERED:
                    self._forgotten_until[index] = row[-REMEMBERED][1]
                    del row[:-REMEMBERED]
                return index
        if len(self._rows) == MAX_ROWS:
            return None
        self._rows.append([(start, end)])
        self._forgotten_until.append(-math.inf)
        return len(self._rows) - 1


def _put(row: list[tuple[float, float]], start: float, end: float) -> bool:
    """Append the span, in place of those that it holds; False where it would cut one in two."""
    keep = len(row)
    while keep and start <= row[keep - 1][0] and row[keep - 1][1] <= end:
        keep -= 1
    if keep and row[keep - 1][1] > start:
        return False
    row[keep:] = [(start, end)]
    return True


def row_number(track: str, row: int) -> int:
    """The same in every process and attempt: sort of track, its number + 1, its row.

    Example: row_number("engine 3", 0) == 2_000_400
    """
    sort, _, number = track.rpartition(" ")
    if sort in _TRACKS and number.isdigit():
        place, within = _TRACKS.index(sort), int(number) % 9_999 + 1
    elif track in _TRACKS:
        place, within = _TRACKS.index(track), 0
    else:
        place, within = len(_TRACKS), zlib.crc32(track.encode()) % 10_000
    return (place + 1) * 1_000_000 + within * 100 + row


def track_of(number: int) -> str:
    """The track of a row's number; of tracks that are not among the usual ones only `other`."""
    place, within = number // 1_000_000 - 1, number // 100 % 10_000
    if not 0 <= place < len(_TRACKS):
        return "other"
    return f"{_TRACKS[place]} {within - 1}" if within else _TRACKS[place]
