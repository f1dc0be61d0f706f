"""Which model should I take: a rule applied to measurements. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from posttrain.config.suites import Recommend, Suite
from posttrain.stages import statistics
from posttrain.stages.measure import Measurement, TaskResult, points
from posttrain.types import Interval

ROUNDING_POINTS = 1e-9  # 50 % - 47 % is a little more than 3 points in floating point


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The model to take, and one sentence on why. `stage` is None where none satisfies the rule."""

    stage: str | None
    why: str


def tax(suite: Suite, since: Measurement | None, now: Measurement) -> Interval | None:
    """The alignment tax as a share: mean of the kept tasks at `tax_since`, minus now."""
    if since is None or since.keep is None or now.keep is None:
        return None
    return statistics.difference(since.keep, now.keep)


def recommend(rule: Recommend, suite: Suite, measured: Mapping[str, Measurement]) -> Recommendation:
    """Choose on the even-numbered prompts of each task; what is reported comes from the odd ones.

    Choosing and reporting on the same answers would flatter whichever model was lucky on them.
    """
    chosen_on = {name: half_of(m.tasks, 0) for name, m in measured.items()}
    reported_on = {name: half_of(m.tasks, 1) for name, m in measured.items()}
    best: tuple[float, str] | None = None
    for name, results in chosen_on.items():
        gain = points(suite.gain, results)
        cost = _tax(suite, chosen_on, results)
        if gain is None or (cost is not None and 100 * cost > rule.tax_at_most + ROUNDING_POINTS):
            continue
        if best is None or gain.value > best[0]:
            best = (gain.value, name)
    if best is None:
        return Recommendation(None, f"no model has a tax of at most {rule.tax_at_most:g} points")
    name = best[1]
    gain = points(suite.gain, reported_on[name])
    cost = _tax(suite, reported_on, reported_on[name])
    assert gain is not None
    text = f"{name}: gain {100 * gain.value:.0f} %"
    if cost is not None:
        text += f" for a tax of {100 * cost:.1f} points"
    return Recommendation(name, f"{text} (chosen on half of the prompts, measured on the other)")


def _tax(
    suite: Suite,
    all_results: Mapping[str, Mapping[str, TaskResult]],
    results: Mapping[str, TaskResult],
) -> float | None:
    since = all_results.get(suite.tax_since or "")
    before = points(suite.keep, since) if since else None
    now = points(suite.keep, results)
    return before.value - now.value if before and now else None


def half_of(results: Mapping[str, TaskResult], parity: int) -> dict[str, TaskResult]:
    """Every second answer of each task, from the first (parity 0: to choose on) or the second one
    (1: to report); of accuracies, the only ones that count in points.
    """
    return {
        name: TaskResult("accuracy", statistics.share(half), len(half), half)
        for name, result in results.items()
        if result.kind == "accuracy" and (half := _every_second(result.passed, parity))
    }


def _every_second(passed: Sequence[float], parity: int) -> tuple[float, ...]:
    """One half of the prompts; a single prompt has no other half and is both."""
    return tuple(passed[parity::2] or passed)
