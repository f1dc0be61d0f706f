"""Health: what went wrong or nearly did. One line where there is nothing to see."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from posttrain.track.events import event_words
from posttrain.track.explain_window import THRESHOLDS, StageFacts
from posttrain.track.formatting import percent, significant
from posttrain.track.mishaps import num_restarts
from posttrain.track.rows import total_of
from posttrain.track.views import RunView, StageView

QUIET = {"note", "note_over", "sync", "waiting", "gate", "saved", "asking", "measured"} | {
    "decontaminated"  # stands in the lineage, beside the data
}


@dataclass(frozen=True, slots=True)
class HealthRow:
    """One stage's numbers; `concern` marks those that a person should look at."""

    stage: str
    cells: Sequence[tuple[str, bool]]  # (text, concern)


@dataclass(frozen=True, slots=True)
class Health:
    """`sentence` says it all where nothing is of concern."""

    sentence: str
    concern: bool
    header: Sequence[str]
    rows: Sequence[HealthRow]
    events: Sequence[tuple[str, str, str]]  # time, stage, what


def health(view: RunView) -> Health:
    """Of all stages that ran processes."""
    rows = [_row(stage) for stage in view.stages if stage.rows]
    events = [
        (_clock(event), stage.name, event_words(event))
        for stage in view.stages
        for event in stage.events
        if event.get("name") not in QUIET
    ]
    concern = any(worry for row in rows for _, worry in row.cells)
    totals = {name: sum(_total(s, f"ops/{name}") for s in view.stages) for name in ("retries",)}
    restarts = sum(num_restarts(stage) for stage in view.stages)
    lost = sum(_total(stage, "ops/rollouts_lost") for stage in view.stages)
    twice = sum(_total(stage, "ops/trained_twice") for stage in view.stages)
    sentence = (
        f"{restarts} restarts, {totals['retries']:.0f} retries, {lost:.0f} rollouts lost,"
        f" {twice:.0f} trained twice"
    )
    return Health(
        sentence if concern or events else f"Nothing to see: {sentence}.",
        concern,
        [
            "stage",
            "restarts, retries",
            "dropped",
            "filtered, refilled",
            "tokens taken over",
            "sync (median, worst)",
            "log-prob gap",
            "verifier failed",
            "lost / twice",
        ],
        rows,
        events[-40:],
    )


def _row(stage: StageView) -> HealthRow:
    sync, gap = stage.values("weights/sync_ms"), stage.values("weights/logprob_gap_max_nats")
    failed = stage.values("verifier/failed_share")
    dropped = {
        name.removeprefix("groups/dropped").lstrip("/"): _total(stage, name)
        for name in stage.metrics
        if name == "groups/dropped" or name.startswith("groups/dropped/")
    }
    lost, twice = _total(stage, "ops/rollouts_lost"), _total(stage, "ops/trained_twice")
    if len(dropped) > 1:  # by source: the total says no more
        dropped.pop("", None)
    limit = StageFacts.from_config(stage.config).logprob_gap_limit
    restarts, retries = num_restarts(stage), _total(stage, "ops/retries")
    named = ", ".join(f"{source} {count:.0f}".strip() for source, count in dropped.items() if count)
    filtered = total_of(stage.rows, "groups/filtered")
    refilled = total_of(stage.rows, "groups/refilled")
    worst_broken = max(failed, default=0.0)
    return HealthRow(
        stage.name,
        [
            (f"{restarts}, {retries:.0f}", restarts > 0),
            (named or "0", bool(named)),
            (f"{filtered:.0f}, {refilled:.0f}", False),
            (f"{_total(stage, 'ops/continued_tokens'):.0f}", False),
            (f"{median(sync):.0f} ms, {max(sync):.0f} ms" if sync else "-", False),
            (f"{significant(max(gap))} nats" if gap else "-", bool(gap) and max(gap) > limit),
            (
                percent(worst_broken) if failed else "-",
                worst_broken > THRESHOLDS.verifier_failed_share,
            ),
            (f"{lost:.0f} / {twice:.0f}", lost + twice > 0),
        ],
    )


def _total(stage: StageView, name: str) -> float:
    return sum(stage.values(name))


def _clock(event: Mapping[str, Any]) -> str:
    moment = event.get("time")
    return time.strftime("%H:%M:%S", time.localtime(moment)) if moment else ""
