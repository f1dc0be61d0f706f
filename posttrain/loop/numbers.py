"""What engines, verifiers and groups did between two publications, as metrics."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from posttrain.loop.fleet import Fleet
from posttrain.loop.ledger import LedgerState
from posttrain.loop.scoring import VerifierHealth
from posttrain.types import SyncReport, told_apart


@dataclass(slots=True)
class Counts:
    """Since the last publication; engines given up also over the stage."""

    all_losses: int = 0  # engines given up since this coordinator started
    losses: int = 0
    retries: int = 0  # samples that another engine took over
    continued_tokens: int = 0  # tokens that were not generated again thanks to a journal
    dropped: dict[str, int] = field(default_factory=dict)  # groups by source of their prompt


@dataclass(slots=True)
class Numbers:
    """Remembers what it has told, so that each publication tells of its own window."""

    _dropped: int = 0  # as of the last publication
    _filtered: int = 0
    told_at: float = field(default_factory=time.monotonic)

    def begin(self, fleet: Fleet) -> None:
        """What engines did for earlier stages is not this stage's work."""
        fleet.take_totals()
        self.told_at = time.monotonic()

    def since_last(
        self,
        fleet: Fleet,
        health: VerifierHealth,
        state: LedgerState,
        counts: Counts,
        sync: SyncReport | None,
        num_open: int,
    ) -> dict[str, float]:
        """Metrics by full name of the window since the last call."""
        now = time.monotonic()
        window_s, self.told_at = max(1e-9, now - self.told_at), now
        totals, links = fleet.take_totals(), list(fleet.links.values())
        filtered, self._filtered = state.num_filtered - self._filtered, state.num_filtered
        dropped, self._dropped = state.num_dropped - self._dropped, state.num_dropped
        metrics = {
            "weights/checksum_failures": 0.0,
            "engine/busy_share": totals.busy_s / window_s / max(1, len(links)),
            "engine/tokens_per_s": totals.tokens / window_s,
            "engine/running": float(sum(link.stats.running for link in links)),
            "engine/waiting": float(sum(link.stats.waiting for link in links)),
            "engine/cache_hit_share": max((e.stats.cache_hit_share for e in links), default=0.0),
            "age/buffer_groups": float(len(state.buffered)),
            "groups/filtered": float(filtered),
            "groups/refilled": float(filtered),  # each filtered group's place goes to a new one
            "groups/dropped": float(dropped),
            "ops/restarts": float(counts.losses),
            "ops/retries": float(counts.retries),
            "ops/continued_tokens": float(counts.continued_tokens),
            "ops/rollouts_lost": float(num_lost(state, num_open)),
        }
        metrics |= health.metrics()
        counts.losses = counts.retries = counts.continued_tokens = 0
        if told_apart(health.by_source):
            metrics |= {f"groups/dropped/{name}": float(n) for name, n in counts.dropped.items()}
        counts.dropped = {}
        if sync is not None:
            metrics |= {
                "weights/sync_ms": sync.sync_ms,
                "weights/stall_share": sync.stall_ms / 1000 / window_s,
                "weights/checksum_failures": float(not sync.checksums_agree),
            }
        return metrics


def num_lost(state: LedgerState, num_open: int) -> int:
    """Draws given out that are not trained, dropped, filtered, buffered or open: 0 or a bug."""
    known = state.num_trained + state.num_dropped + state.num_filtered
    return state.next_draw - known - len(state.buffered) - num_open
