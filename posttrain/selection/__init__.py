"""What becomes a row of the answers to one prompt: one rule per file.

Each has `Config`, `COLUMNS` and `select(candidates, config)`. COLUMNS are what its rows say beside
the prompt: `("completion",)`, and `select` gives candidates; or `("chosen", "rejected")`, and it
gives pairs of them, the better one first. A rule that also weighs the answer that a row of the data
brings with it has `OWN_ANSWER`, the name of that column.

May import: ports and below.
"""

from __future__ import annotations

from dataclasses import dataclass

COMPLETION = ("completion",)
PAIR = ("chosen", "rejected")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One answer to a prompt. Example: Candidate("abc", 0.75)"""

    text: str
    score: float  # nan where nothing scores answers
    of_policy: bool = True  # False: the answer that the row of the data brings with it
