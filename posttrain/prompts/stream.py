"""The order in which prompts are drawn: a pure function of the seed and the draw's number."""

from __future__ import annotations

import random
from collections.abc import Sequence

from posttrain.errors import InputError, Problem
from posttrain.types import Prompt


class PromptStream:
    """Endless, shuffled anew each epoch; `at(draw)` is the same in every process and after a
    restart.
    """

    def __init__(self, prompts: Sequence[Prompt], seed: int) -> None:
        if not prompts:
            raise InputError(
                Problem(
                    "empty-data", "no prompt to draw from", help="check `data` with posttrain show"
                )
            )
        self._prompts = prompts
        self._seed = seed
        self._epoch = -1
        self._order: list[int] = []

    def at(self, draw: int) -> Prompt:
        """The prompt of draw number `draw` (0-based)."""
        epoch, position = divmod(draw, len(self._prompts))
        if epoch != self._epoch:
            # Draws of two epochs alternate only around a boundary, so one remembered
            # order is enough.
            self._order = list(range(len(self._prompts)))
            random.Random(f"{self._seed}/{epoch}").shuffle(self._order)
            self._epoch = epoch
        return self._prompts[self._order[position]]
