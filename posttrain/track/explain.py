"""Says what the numbers mean while they run: from a window of metrics to lines to act on.

`findings(window, facts)` is pure: the rules look at one window and say what is so at its end.
`Explainer` adds patience: a finding must hold 3 steps to appear and, once it is gone, 10 to return.
The first word is the verdict: normal (looks odd, is not), watch, act. No line without its number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from posttrain.track.explain_rules import (
    RULES,
    START_ROWS,
    THRESHOLDS,
    Row,
    StageFacts,
    Verdict,
)

RECENT_ROWS = 50


@dataclass(frozen=True, slots=True)
class Note:
    """One explanation. Example: Note("normal", "loss-near-zero", "loss 0.0002 is no bug; ...")"""

    verdict: Verdict
    code: str
    text: str

    @property
    def line(self) -> str:
        return f"{self.verdict}: {self.text}"


def findings(window: Sequence[Row], facts: StageFacts | None = None) -> list[Note]:
    """What is so at the end of the window, worst first.

    `window` is one merged row per step, oldest first; its first rows are the stage's beginning.
    """
    if not window:
        return []
    known = facts or StageFacts()
    return [
        Note(rule.verdict, rule.code, text)
        for rule in RULES
        if (text := rule.find(window, known)) is not None
    ]


class Explainer:
    """Keeps the window and decides when a finding has held long enough to be said."""

    def __init__(self, facts: StageFacts | None = None) -> None:
        self._facts = facts or StageFacts()
        self._start: list[Row] = []
        self._recent: deque[Row] = deque(maxlen=RECENT_ROWS)
        self._held: dict[str, int] = {}
        self._said: set[str] = set()  # at any time
        self._showing: set[str] = set()

    def observe(self, row: Row) -> tuple[list[Note], list[str]]:
        """Take the next step's row; returns (notes that now appear, codes that are now over)."""
        target = self._start if len(self._start) < START_ROWS else self._recent
        target.append(row)
        found = findings([*self._start, *self._recent], self._facts)
        codes = {note.code for note in found}
        self._held = {code: self._held.get(code, 0) + 1 for code in codes}
        over = sorted(self._showing - codes)
        self._showing &= codes
        appearing = [note for note in found if self._is_due(note.code)]
        self._showing |= {note.code for note in appearing}
        self._said |= self._showing
        return appearing, over

    def _is_due(self, code: str) -> bool:
        again = code in self._said
        needed = THRESHOLDS.steps_to_return if again else THRESHOLDS.steps_to_appear
        return code not in self._showing and self._held[code] >= needed
