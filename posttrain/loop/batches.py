"""The look-ahead rule on counts: which accepted groups make the next batch, in O(max_staleness).

Taking what is due *now* is not enough: with a staleness of two or more, later steps may come to owe
more groups than one batch holds, and would wait for ever. So every later step is looked at: of the
groups untrained at present, those that must be trained within j further steps, less what those
steps can take (j batches), have to be in this batch.

The untrained groups are counted per start version, and the accepted ones wait in one queue per
start version, so that a question costs a walk over start versions and not over groups.
"""

from __future__ import annotations

import sys
from collections import deque

from posttrain.loop.admission import AdmissionRule

ANY_VERSION = sys.maxsize  # "whichever group comes next", where a start version would stand


class Batches:
    """Untrained groups: how many of each start version there are, and which are accepted."""

    def __init__(self, rule: AdmissionRule) -> None:
        self._rule = rule
        self._num_untrained: dict[int, int] = {}  # start version -> begun or accepted groups
        # start version -> (how many were accepted before, draw), first first
        self._queues: dict[int, deque[tuple[int, int]]] = {}
        self._num_ever_accepted = 0
        self.num_accepted = 0  # groups that are accepted and wait for a batch

    def accepted(self) -> tuple[tuple[int, int], ...]:
        """(draw, start version) of the groups that wait for a batch, in order of acceptance."""
        starts = self._queues.items()
        ordered = sorted((order, draw, start) for start, queue in starts for order, draw in queue)
        return tuple((draw, start) for _, draw, start in ordered)

    def begin(self, start_version: int) -> None:
        """One more group is under way."""
        self._num_untrained[start_version] = self._num_untrained.get(start_version, 0) + 1

    def end(self, start_version: int, num: int = 1) -> None:
        """So many groups fewer are under way: dropped, filtered, or part of a batch."""
        left = self._num_untrained[start_version] - num
        if left:
            self._num_untrained[start_version] = left
        else:
            del self._num_untrained[start_version]

    def accept(self, draw: int, start_version: int) -> None:
        """A group under way may be trained from now on."""
        queue = self._queues.get(start_version)
        if queue is None:
            queue = self._queues[start_version] = deque()
        queue.append((self._num_ever_accepted, draw))
        self._num_ever_accepted += 1
        self.num_accepted += 1

    def waits_for(self, step: int) -> int | None:
        """None: the batch that makes version step + 1 can be taken. Else a start version: a group
        that began under it or an older one must be accepted first (ANY_VERSION: any group).
        """
        size, bound = self._rule.groups_per_step, self._rule.max_staleness
        if self.num_accepted < size:
            return ANY_VERSION
        if bound == 0:
            return None
        oldest = step - bound
        untrained = sum(num for start, num in self._num_untrained.items() if start < oldest)
        accepted = sum(len(queue) for start, queue in self._queues.items() if start < oldest)
        for later in range(bound):
            untrained += self._num_untrained.get(oldest + later, 0)
            accepted += len(self._queues.get(oldest + later, ()))
            # Of these groups, the `later` steps in between can take `size` each; the others have to
            # be in this batch, which takes the oldest first.
            if min(accepted, size) < untrained - later * size:
                return oldest + later
        return None

    def take(self, step: int) -> tuple[int, ...] | None:
        """The draws of the batch that makes version step + 1, sorted; they leave. None: wait."""
        if self.waits_for(step) is not None:
            return None
        size = self._rule.groups_per_step
        batch: list[int] = []
        for start in sorted(self._queues):
            queue = self._queues[start]
            num = min(size - len(batch), len(queue))
            batch += [queue.popleft()[1] for _ in range(num)]
            self.end(start, num)
            if not queue:
                del self._queues[start]
            if len(batch) == size:
                break
        self.num_accepted -= size
        return tuple(sorted(batch))
