"""The ledger: what became of every prompt draw. Each draw is trained once, or dropped and counted.

Append-only JSON lines: {"event": "admitted" | "scored" | "dropped" | "trained", "draw": 17, ...}.
The file is the record for people and audits; what a restart needs travels inside the checkpoint
(`LedgerState`), so that both agree on one point in time.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class LedgerState:
    """Counts and draws that a restart needs.

    `settled` draws (trained or dropped) are kept as a low-water mark and the few beyond it.
    """

    next_draw: int = 0
    settled_below: int = 0
    settled_beyond: set[int] = field(default_factory=set)
    num_trained: int = 0
    num_dropped: int = 0

    def settle(self, draw: int) -> None:
        """Mark a draw as trained or dropped. ValueError where it was settled before."""
        if self.is_settled(draw):
            raise ValueError(f"draw {draw} is settled twice")
        self.settled_beyond.add(draw)
        while self.settled_below in self.settled_beyond:
            self.settled_beyond.remove(self.settled_below)
            self.settled_below += 1

    def is_settled(self, draw: int) -> bool:
        return draw < self.settled_below or draw in self.settled_beyond

    def unsettled(self) -> list[int]:
        """Draws that were begun and neither trained nor dropped, in order."""
        return [d for d in range(self.settled_below, self.next_draw) if not self.is_settled(d)]

    def to_json(self) -> dict[str, Any]:
        return {
            "next_draw": self.next_draw,
            "settled_below": self.settled_below,
            "settled_beyond": sorted(self.settled_beyond),
            "num_trained": self.num_trained,
            "num_dropped": self.num_dropped,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> LedgerState:
        return cls(**(data | {"settled_beyond": set(data["settled_beyond"])}))


class Ledger:
    """Appends events to a file and keeps the state that they add up to."""

    def __init__(self, path: Path | None, state: LedgerState | None = None) -> None:
        self.state = state or LedgerState()
        self._file = path.open("a", encoding="utf-8") if path else None

    def admit(self) -> int:
        """Give out the next draw."""
        draw = self.state.next_draw
        self.state.next_draw += 1
        self._write("admitted", draw)
        return draw

    def scored(self, draw: int, start_version: int, mean_score: float) -> None:
        self._write("scored", draw, start_version=start_version, mean_score=mean_score)

    def dropped(self, draw: int, reason: str) -> None:
        self.state.settle(draw)
        self.state.num_dropped += 1
        self._write("dropped", draw, reason=reason)

    def trained(self, draw: int, step: int) -> None:
        self.state.settle(draw)
        self.state.num_trained += 1
        self._write("trained", draw, step=step)

    def flush(self) -> None:
        if self._file:
            self._file.flush()

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None

    def _write(self, event: str, draw: int, **details: Any) -> None:
        if self._file:
            self._file.write(json.dumps({"event": event, "draw": draw, **details}) + "\n")
