"""One measured figure, how it is stored and how it is shown."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Figure:
    """A claim and what was measured.

    `value` is what is compared with the goal: the median of the samples unless the claim says
    otherwise. `spread` is (smallest, largest).
    """

    name: str
    value: float
    unit: str
    goal: float | None  # None: measured and shown, no goal
    comparison: Literal["<=", ">=", ""]
    samples: tuple[float, ...]

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        return self.value <= self.goal if self.comparison == "<=" else self.value >= self.goal

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {
            "met": self.met,
            "median": statistics.median(self.samples),
            "spread": [min(self.samples), max(self.samples)],
        }


def at_most(name: str, samples: Sequence[float], goal: float, unit: str) -> Figure:
    return Figure(name, statistics.median(samples), unit, goal, "<=", tuple(samples))


def at_least(name: str, samples: Sequence[float], goal: float, unit: str) -> Figure:
    return Figure(name, statistics.median(samples), unit, goal, ">=", tuple(samples))


def worst_at_most(name: str, samples: Sequence[float], goal: float, unit: str) -> Figure:
    return Figure(name, max(samples), unit, goal, "<=", tuple(samples))


def worst_at_least(name: str, samples: Sequence[float], goal: float, unit: str) -> Figure:
    return Figure(name, min(samples), unit, goal, ">=", tuple(samples))


def mean_at_least(name: str, samples: Sequence[float], goal: float, unit: str) -> Figure:
    return Figure(name, statistics.fmean(samples), unit, goal, ">=", tuple(samples))


def shown(name: str, samples: Sequence[float], unit: str) -> Figure:
    return Figure(name, statistics.median(samples), unit, None, "", tuple(samples))


def save(name: str, figures: Sequence[Figure], settings: dict[str, Any]) -> Path:
    """Write results/NAME.json with versions and machine."""
    from posttrain.pipeline.provenance import git_state, machine, versions

    document = {
        "benchmark": name,
        "figures": [figure.to_json() for figure in figures],
        "settings": settings,
        "versions": versions(),
        "machine": {key: value for key, value in machine().items() if key != "host"},
        "git": git_state(),
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return path
