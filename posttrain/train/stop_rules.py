"""When an online stage ends before its last step: a metric above its limit, steps running."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from posttrain.types import MEMBERS_STD

RUNNING_STEPS = 3  # so long a metric has to be too large: single batches are noisy


@dataclass(frozen=True, slots=True)
class StopRule:
    """A metric and the most that it may be."""

    metric: str
    most: float
    words: str  # `{value}` is what was measured last


def stop_rules(members_std: float | None, kl_nats: float | None) -> list[StopRule]:
    """Those that are asked for."""
    rules = [
        (f"reward/{MEMBERS_STD}", members_std, "the reward models differ by {value:.2f}"),
        ("policy/kl_reference_nats", kl_nats, "the KL to the start is {value:.2f} nats"),
    ]
    return [StopRule(metric, most, words) for metric, most, words in rules if most is not None]


class StopWatch:
    """Counts, rule by rule, for how many steps running its metric was above its limit.

    Metrics are the same on every rank, so all ranks stop after the same step. `state` is what an
    earlier one came to: a trainer that goes on from a checkpoint stops where it would have.
    """

    def __init__(self, rules: list[StopRule], state: Mapping[str, Any] | None = None) -> None:
        before = state or {"running": {}, "reason": None}
        self._rules = rules
        self._running: dict[str, int] = {
            rule.metric: before["running"].get(rule.metric, 0) for rule in rules
        }
        self.reason: str | None = before["reason"]  # why training ends here

    def after(self, metrics: Mapping[str, float]) -> None:
        """Look at a step."""
        for rule in self._rules:
            value = metrics.get(rule.metric, 0.0)
            self._running[rule.metric] = self._running[rule.metric] + 1 if value > rule.most else 0
            if self._running[rule.metric] == RUNNING_STEPS and self.reason is None:
                self.reason = (
                    f"{rule.words.format(value=value)}, more than {rule.most:g}, for "
                    f"{RUNNING_STEPS} steps: training ends here"
                )

    def state(self) -> dict[str, Any]:
        """JSON, for a checkpoint."""
        return {"running": dict(self._running), "reason": self.reason}
