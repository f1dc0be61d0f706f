"""Which prompt may start: a pure rule. Which groups make the next batch is `batches`.

Both count *groups*. `version` counts publications of weights, one per batch; a group's start
version is what its engine acknowledged when it began. The bound that holds: when the batch that
makes version v+1 is trained, none of its groups started before version v - max_staleness.

The admission rule is AReaL's (arXiv 2505.24298, Eq. 3) with the lowest version that a live engine
has acknowledged in place of the trainer's: a lagging engine must not be given work it would do with
old weights.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AdmissionRule:
    """How much work may be under way.

    groups_per_step: groups of one batch (B); steps_ahead: batches kept in flight beyond the one
    being trained (d); max_staleness: oldest start version a trained group may have (eta).
    """

    groups_per_step: int
    steps_ahead: int
    max_staleness: int

    def __post_init__(self) -> None:
        if self.groups_per_step < 1 or not 0 <= self.steps_ahead <= self.max_staleness:
            raise ValueError(
                f"need groups_per_step >= 1 and 0 <= steps_ahead <= max_staleness, got {self}"
            )

    def room(self, accepted: int, running: int, acknowledged_version: int) -> int:
        """Groups that may start now.

        accepted: groups ever finished and not dropped, trained ones included; running: groups begun
        and not finished; acknowledged_version: the lowest that a live engine has acknowledged.
        Example: B=4, d=2, v=0 -> 12; accepted 8, running 3 -> 1; then v=1 -> 5.
        """
        limit = (self.steps_ahead + acknowledged_version + 1) * self.groups_per_step
        return max(0, limit - accepted - running)
