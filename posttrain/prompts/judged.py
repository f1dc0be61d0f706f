"""Rows of one answer that somebody found good or bad: `prompt`, `completion`, `label`.

    {"prompt": "write ab=", "completion": "ab", "label": true}

or `messages`, the last of which is the answer, and `label`. Such rows are what thumbs up and down
leave behind: nobody has to compare two answers.
"""

from __future__ import annotations

from typing import Any

COLUMNS = ("prompt", "completion", "label")
LABEL = "label"

_WORDS = {"true": True, "1": True, "false": False, "0": False}


def is_good(label: Any) -> bool | None:
    """What a label says: true, false, 1, 0, or these as words, as .csv files have them. None for
    anything else.
    """
    if isinstance(label, bool):
        return label
    return _WORDS.get(str(label).strip().lower()) if isinstance(label, int | str) else None
