"""What the rules of the live explanations share: thresholds, facts, and readings of a window.

A window is one merged row per step, oldest first, with the stage's beginning in front.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any, Literal

Row = Mapping[str, float]
Verdict = Literal["normal", "watch", "act"]

START_ROWS = 3  # the beginning of the stage, kept for "how it was at the start"


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Every number that decides whether a line appears."""

    steps_to_appear: int = 3
    steps_to_return: int = 10
    loss_near_zero: float = 1e-3  # nats per token
    nothing: float = 1e-12  # a loss or gradient norm that is zero
    one_sided_share: float = 0.5
    flat_steps: int = 20
    flat_standard_errors: float = 2.0  # a slope within so many of its standard errors is noise
    solved_reward: float = 0.95  # flat up here is success, not trouble
    kl_times_median: float = 3.0
    kl_steps: int = 10
    kl_floor_nats: float = 1.0  # small divergences triple all the time
    entropy_share_of_start: float = 0.2
    logprob_gap_fp32_nats: float = 1e-3
    logprob_gap_bf16_nats: float = 0.15
    spread_times_start: float = 2.0  # of an ensemble's members: they guess
    watched_steps: int = 5  # over which what is watched is averaged
    cut_share: float = 0.1
    verifier_failed_share: float = 0.01
    old_groups_wait_share: float = 0.1
    slow_engines_wait_share: float = 0.3
    engines_busy: float = 0.9  # busier than this, engines are what everyone waits for
    engines_idle_share: float = 0.3
    at_bound_share: float = 0.5  # of tokens as old as the bound allows
    at_bound_from: int = 2  # a bound of 1 has no room to choose from
    stall_share: float = 0.05  # of the time, generation standing still for new weights
    dropped_share: float = 0.01  # of groups
    filtered_per_trained: float = 1.0  # groups generated for nothing per group trained
    turns_both_busy: float = 0.2  # together less than this, while together they fill ...
    turns_either_busy: float = 0.6  # ... more than this of the time: they work in turns
    small_gap_share: float = 0.7  # of the log-prob limit: worth a look before it stops the stage


THRESHOLDS = Thresholds()


@dataclass(frozen=True, slots=True)
class StageFacts:
    """What a rule may know of the stage beside its metrics; None where it is not known."""

    max_new_tokens: int | None = None
    precision: str = "fp32"
    staleness_max: int | None = None
    groups_per_step: int | None = None
    staleness_ahead: int | None = None

    @property
    def logprob_gap_limit(self) -> float:
        """Nats that engine and trainer may honestly differ by, at the stage's precision."""
        low = self.precision == "bf16"
        return THRESHOLDS.logprob_gap_bf16_nats if low else THRESHOLDS.logprob_gap_fp32_nats

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> StageFacts:
        """Read from a resolved stage configuration (`config.yaml`); missing keys are unknown."""
        sampling, batch, staleness = (
            value if isinstance(value := config.get(key), Mapping) else {}
            for key in ("sampling", "batch", "staleness")
        )
        return cls(
            max_new_tokens=sampling.get("max_new_tokens"),
            precision=str(config.get("precision", "fp32")),
            staleness_max=staleness.get("max"),
            groups_per_step=batch.get("prompts"),
            staleness_ahead=staleness.get("ahead"),
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """A code with its verdict and the function that finds it in a window (None: not so)."""

    code: str
    verdict: Verdict
    find: Callable[[Sequence[Row], StageFacts], str | None]


# --- readings of a window ----------------------------------------------------------------------


def series_of(window: Sequence[Row], name: str) -> list[float]:
    return [row[name] for row in window if row.get(name) is not None]


def latest(window: Sequence[Row], name: str) -> float | None:
    series = series_of(window[-10:], name)
    return series[-1] if series else None


def recent_mean(window: Sequence[Row], name: str) -> float | None:
    series = series_of(window[-3:], name)
    return mean(series) if series else None


def at_start(window: Sequence[Row], name: str) -> float:
    series = series_of(window[:START_ROWS], name)
    return mean(series) if series else 0.0


def fine_percent(share: float) -> str:
    return f"{share * 100:.1f} %"
