"""Metric rows as meant: a restart repeats steps, and one step may take several lines."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from sys import intern
from typing import Any


def merge_rows(lines: Iterable[Mapping[str, Any]]) -> list[dict[str, float]]:
    """One row per step, in order of steps.

    Lines of one step are merged, later values and later attempts winning. A later attempt takes the
    history over from its first step: steps beyond that which it has not repeated did not survive.
    Lines without `axis/step` are left out.
    """
    merged = MergedRows()
    merged.add(sorted(lines, key=_attempt))
    return merged.rows()


class MergedRows:
    """The same of lines that come one after another, attempts in order, for whoever looks often:
    it costs what is new, and holds each name once.
    """

    def __init__(self) -> None:
        self._rows: dict[float, dict[str, float]] = {}
        self._attempt = -1
        self._first = math.inf  # step of that attempt
        self._earlier: dict[float, dict[str, float]] = {}  # attempts' rows from that step on

    def add(self, lines: Iterable[Mapping[str, Any]]) -> None:
        for line in lines:
            step = line.get("axis/step")
            if isinstance(step, int | float):
                row = self._row(_attempt(line), step)
                row.update({intern(name): v for name, v in line.items() if _is_number(v)})

    def rows(self) -> list[dict[str, float]]:
        return [self._rows[step] for step in sorted(self._rows)]

    def _row(self, attempt: int, step: float) -> dict[str, float]:
        if attempt > self._attempt:
            self._attempt, self._first, self._earlier = attempt, math.inf, {}
        if step < self._first:
            for later in [each for each in self._rows if step <= each < self._first]:
                self._earlier[later] = self._rows.pop(later)
            self._first = step
        if step not in self._rows:
            self._rows[step] = self._earlier.pop(step, {})
        return self._rows[step]


def _attempt(line: Mapping[str, Any]) -> int:
    return int(line.get("attempt") or 0)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def last_values(lines: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The last value of every metric (names with an area, not axes), whatever line it stands in."""
    values: dict[str, float] = {}
    for line in lines:
        for name, value in line.items():
            if "/" in name and not name.startswith("axis/") and _is_number(value):
                values[name] = value
    return values


def share_by_age(
    rows: Iterable[Mapping[str, Any]], samples: Iterable[Mapping[str, Any]] = ()
) -> dict[int, float]:
    """Share of trained rollouts by age in weight versions, over all steps.

    From the metrics `age/share/<versions>` of each step; where there are none, from the samples.
    """
    totals: dict[int, float] = {}
    for row in rows:
        for name, value in row.items():
            tail = name.removeprefix("age/share/")
            if tail != name and tail.isdigit():
                totals[int(tail)] = totals.get(int(tail), 0.0) + value
    if not totals:
        for sample in samples:
            if isinstance(sample.get("age"), int | float):
                totals[int(sample["age"])] = totals.get(int(sample["age"]), 0.0) + 1.0
    whole = sum(totals.values())
    return {age: totals[age] / whole for age in sorted(totals)} if whole > 0 else {}


def age_percentiles(row: Mapping[str, Any]) -> dict[str, float]:
    """`age/versions/p50` and `p99` from the whole histogram that stands in `age/share/<versions>`.

    The smallest age that at least half (99 %) of the tokens do not exceed; nothing without shares.
    """
    shares = share_by_age([row])
    found: dict[str, float] = {}
    for name, wanted in (("p50", 0.5), ("p99", 0.99)):
        reached = 0.0
        for age, share in shares.items():
            reached += share
            if reached >= wanted - 1e-9:
                found[f"age/versions/{name}"] = float(age)
                break
    return found


def held_out(rows: Iterable[Mapping[str, float]]) -> list[tuple[float, float]]:
    """(step, share of right answers) of the questions asked while training."""
    name = "reward/heldout_mean"
    return [(row.get("axis/step", 0.0), row[name]) for row in rows if row.get(name) is not None]


def pairs_right(rows: Iterable[Mapping[str, float]]) -> list[tuple[float, float]]:
    """(step, share of held-out comparisons that are right): of a policy, or of an ensemble's
    members one after another, and of all together at the end.
    """
    series = []
    for row in rows:
        found = [value for name, value in row.items() if _is_pair_accuracy(name)]
        series += [(row.get("axis/step", 0.0), value) for value in found]
    return series


def _is_pair_accuracy(name: str) -> bool:
    return name == "pref/heldout_accuracy" or (
        name.startswith("rm/") and name.endswith("/pair_accuracy")
    )


def total_of(rows: Iterable[Mapping[str, float]], name: str) -> float:
    """The sum of a count over steps, with its parts by source: `groups/dropped`, or
    `groups/dropped/<source>` where it is told so.
    """
    total = 0.0
    for row in rows:
        parts = [value for key, value in row.items() if key.startswith(f"{name}/")]
        total += row[name] if name in row else sum(parts)
    return total
