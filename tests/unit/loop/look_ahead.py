"""The look-ahead rule as it is said, over lists of groups: what `loop.batches` is held to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from posttrain.loop.admission import AdmissionRule


@dataclass(frozen=True, slots=True)
class FinishedGroup:
    """A group that waits to be trained. `order` counts finished groups: lower finished earlier."""

    group_id: str
    start_version: int
    order: int


def choose_batch(
    rule: AdmissionRule,
    version: int,
    finished: Sequence[FinishedGroup],
    running_starts: Iterable[int],
) -> list[FinishedGroup] | None:
    """The groups of the batch that makes version+1, or None: wait, an older group must come along.

    Taking what is due *now* is not enough: with a staleness of two or more, later steps may come to
    owe more groups than one batch holds, and would wait for ever. So every later step is looked at:
    of the groups untrained at present, those that must be trained within j further steps, less what
    those steps can take (j batches), have to be in this batch.
    """
    size = rule.groups_per_step
    if len(finished) < size:
        return None
    oldest_first = sorted(finished, key=lambda group: (group.start_version, group.order))
    batch = oldest_first[:size]
    untrained = [group.start_version for group in finished] + list(running_starts)
    for later in range(rule.max_staleness):
        limit = version + later - rule.max_staleness
        owed = sum(start <= limit for start in untrained) - later * size
        if sum(group.start_version <= limit for group in batch) < owed:
            return None
    return batch
