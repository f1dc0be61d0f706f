"""What died in a run and what was done about it: events in words, and how many there were."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.track.formatting import long_duration, printable
from posttrain.track.views import RunView, StageView

WORDS = {
    "engine-lost": "engine {engine} lost: {message}; its unfinished answers go on elsewhere",
    "engine-replaced": "engine {engine} replaced by engine {by}",
    "engine-not-replaced": "engine {engine} not replaced: {message}",
    "trainer-restarted": (
        "trainer restarted from step {from_step}; the same batches are trained again, nothing is "
        "generated again"
    ),
    "coordinator-restarted": "coordinator restarted from its ledger at step {next_step}",
    "reward-worker-restarted": "reward worker restarted; what it was scoring is scored again",
    "tracker-restarted": "tracker restarted; what it had not written down is told to it again",
}
RESTARTS = {  # one for each process that died: event -> singular, plural
    "engine-lost": ("engine lost", "engines lost"),
    "trainer-restarted": ("trainer restart", "trainer restarts"),
    "coordinator-restarted": ("coordinator restart", "coordinator restarts"),
    "reward-worker-restarted": ("reward worker restart", "reward worker restarts"),
    "tracker-restarted": ("tracker restart", "tracker restarts"),
}
REPLACED = ("engine replaced", "engines replaced")


def mishap_words(event: Mapping[str, Any]) -> str | None:
    """`engine 0 replaced by engine 1`; None for an event that is no mishap."""
    words = WORDS.get(str(event.get("name")))
    if words is None:
        return None
    details = {key: printable(str(value), 200) for key, value in event.items()}
    return words.format_map(defaultdict(lambda: "?", details))


def num_restarts(stage: StageView) -> int:
    """Processes of a stage that died, or were given up, and were started again."""
    said = sum(event.get("name") in RESTARTS for event in stage.events)
    return max(said, round(sum(stage.values("ops/restarts"))))


def mishap_summary(view: RunView) -> str:
    """`1 engine replaced 41 min ago, 0 rollouts lost`; empty where nothing died."""
    events = [event for stage in view.stages for event in stage.events]
    counts = Counter(str(event.get("name")) for event in events)
    parts = []
    replaced, lost = counts["engine-replaced"], counts["engine-lost"]
    if replaced:
        parts.append(_counted(replaced, REPLACED) + _ago(events, "engine-replaced", view.now))
    for name, words in RESTARTS.items():
        count = lost - replaced if name == "engine-lost" else counts[name]
        if count > 0:
            parts.append(_counted(count, words) + _ago(events, name, view.now))
    if not parts:
        return ""
    rollouts = sum(sum(stage.values("ops/rollouts_lost")) for stage in view.stages)
    return ", ".join([*parts, f"{rollouts:.0f} rollouts lost"])


def _counted(count: int, words: tuple[str, str]) -> str:
    return f"{count} {words[count != 1]}"


def _ago(events: Sequence[Mapping[str, Any]], name: str, now: float) -> str:
    times = [event.get("time") for event in events if event.get("name") == name]
    newest = max((at for at in times if isinstance(at, int | float)), default=None)
    if newest is None:
        return ""
    largest_unit = long_duration(max(0.0, now - newest)).split()[:2]
    return f" {' '.join(largest_unit)} ago"
