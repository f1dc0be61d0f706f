"""Columns under our names: another name in the file, or a text that holds several of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_PLACE = re.compile(r"\{([A-Za-z_][\w-]*)\}")


def theirs(column: str) -> Iterator[str]:
    """The file's columns that one of ours is made of.

    Example: "question" is itself; "{text}\\nTests:\\n{test_list}" is made of text and test_list.
    """
    found = _PLACE.findall(column)
    yield from found or (column,)


def value_of(column: str, row: Mapping[str, Any]) -> Any:
    """Ours, of a row that has all that it is made of. In a text, lists stand one entry a line."""
    if not _PLACE.search(column):
        return row[column]
    return _PLACE.sub(lambda place: _as_text(row[place[1]]), column)


def _as_text(value: Any) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)
