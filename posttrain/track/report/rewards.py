"""What each source of prompts earned, what scores were made of, how often each judge said no."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from posttrain.track.formatting import percent, significant
from posttrain.track.views import RunView, StageView

KINDS = (  # (before the name, behind it, in words, whether it is a share)
    ("reward/", "/mean", "reward", False),
    ("reward/", "/pass_share", "right", True),
    ("reward/parts/", "", "part", False),
    ("judge/", "/violated_share", "violated", True),
    ("verifier/", "/failed_share", "verifier broke on", True),
)
WINDOW = 10  # steps that the first and the last value are a mean of


@dataclass(frozen=True, slots=True)
class RewardRow:
    """One source, part or judge of a stage: means of its first and last steps, and its worst."""

    stage: str
    name: str
    what: str
    first: str
    last: str
    range: str


def reward_rows(view: RunView) -> Sequence[RewardRow]:
    """Of all stages whose rewards have sources, parts or judges; empty where none has."""
    return [row for stage in view.stages for row in _of_stage(stage)]


def _of_stage(stage: StageView) -> Iterator[RewardRow]:
    for before, behind, what, is_share in KINDS:
        for metric in sorted(stage.metrics):
            name = metric[len(before) : len(metric) - len(behind)]
            # `reward/mean` has no name between the two, `reward/parts/x` is no source.
            if metric != f"{before}{name}{behind}" or not name or _is_other(before, name):
                continue
            values = stage.values(metric)
            show = percent if is_share else significant
            first, last = values[:WINDOW], values[-WINDOW:]
            yield RewardRow(
                stage.name,
                name,
                what,
                show(sum(first) / len(first)),
                show(sum(last) / len(last)),
                f"{show(min(values))} to {show(max(values))}",
            )


def _is_other(before: str, name: str) -> bool:
    return before == "reward/" and name.startswith("parts/")
