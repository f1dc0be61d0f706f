"""What screens and the report show: a run folder as typed records. Nothing here reads a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from posttrain.types import Interval

StageState = Literal["waiting", "running", "done", "failed", "stopped"]
RunState = Literal["running", "done", "failed", "stopped", "gate"]


@dataclass(frozen=True, slots=True)
class TaskResult:
    """One task, one model. Example: TaskResult(Interval(0.48, 0.45, 0.51), "accuracy", 256)"""

    value: Interval  # accuracy 0..1, or perplexity
    kind: str = "accuracy"
    prompts: int | None = None
    details: Mapping[str, float] = field(default_factory=dict)  # further shares 0..1, by name


@dataclass(frozen=True, slots=True)
class Measurement:
    """One suite asked of one model."""

    suite: str
    tasks: Mapping[str, TaskResult]
    points: Mapping[str, Interval] = field(default_factory=dict)  # gain, keep, tax: shares 0..1
    passed: Mapping[str, Sequence[float]] = field(default_factory=dict)  # task -> 0..1 by prompt
    answers: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    fingerprint: str = ""  # equal fingerprints: the same prompts in the same order
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class NoteView:
    """An explanation as it stands in `events.jsonl`; `over_step` is set once it no longer holds."""

    verdict: str
    code: str
    text: str
    step: int | None
    time: float
    over_step: int | None = None

    @property
    def line(self) -> str:
        return f"{self.verdict}: {self.text}"


@dataclass(frozen=True, slots=True)
class StageView:
    """One stage of a run, finished or not."""

    name: str
    kind: str
    state: StageState
    identity: str | None
    why: str  # kept, new, changed: ..., upstream: ...
    needs: tuple[str, ...]
    directory: Path
    description: str = ""
    started: float | None = None  # unix time
    seconds: float | None = None  # so far, where it still runs
    step: int | None = None
    steps: int | None = None
    eta_s: float | None = None
    artifact: Mapping[str, Any] | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)  # last value by name
    rows: Sequence[Mapping[str, float]] = ()  # one per step
    notes: Sequence[NoteView] = ()  # all, oldest first
    events: Sequence[Mapping[str, Any]] = ()
    samples: Sequence[Mapping[str, Any]] = ()
    measurements: Mapping[str, Measurement] = field(default_factory=dict)  # by suite
    verdict: EvaluationView | None = None  # of an evaluate stage
    error: Mapping[str, Any] | None = None
    manifest: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kept(self) -> bool:
        """Done by an earlier run of the same folder and taken over."""
        return self.state == "done" and self.why == "kept"

    @property
    def active_notes(self) -> list[NoteView]:
        """Explanations that still hold, worst first, newest first among equals."""
        order = {"act": 0, "watch": 1, "normal": 2}
        active = [note for note in self.notes if note.over_step is None]
        return sorted(active, key=lambda note: (order.get(note.verdict, 3), -note.time))

    def series(self, name: str) -> list[tuple[float, float]]:
        """(step, value) of one metric, where it was recorded."""
        return [(row["axis/step"], row[name]) for row in self.rows if row.get(name) is not None]

    def values(self, name: str) -> list[float]:
        return [value for _, value in self.series(name)]

    def waiting_for(self) -> str | None:
        """What a running stage waits for, where it said so after its last number."""
        last_row = max((row.get("time", 0.0) for row in self.rows), default=0.0)
        for event in reversed(self.events):
            if event.get("time", 0.0) < last_row:
                return None
            if event.get("name") == "waiting":
                return str(event.get("text", "")) or None
        return None


@dataclass(frozen=True, slots=True)
class EvaluationView:
    """What an evaluate stage found."""

    models: Mapping[str, Measurement]  # by stage of the model
    recommended: str | None
    why: str
    points: Mapping[str, Mapping[str, Interval]]  # model stage -> gain, keep, tax; shares 0..1


@dataclass(frozen=True, slots=True)
class SuiteView:
    """A named list of questions."""

    name: str
    gain: tuple[str, ...]
    keep: tuple[str, ...]
    tax_since: str | None = None

    @property
    def keep_label(self) -> str:
        """`skills` for the micro world's, `kept` for anything else."""
        own = all(task.startswith("microworld/") for task in self.keep)
        return "skills" if self.keep and own else "kept"


@dataclass(frozen=True, slots=True)
class RunView:
    """A run folder, read at one moment."""

    directory: Path
    name: str
    run_id: str
    state: RunState
    stages: tuple[StageView, ...]
    suites: tuple[SuiteView, ...]
    now: float  # unix time of the reading
    started: float | None = None
    seconds: float | None = None
    description: str = ""
    command: str = ""
    host: str = ""
    wandb: str = "offline"
    recommended: str | None = None
    error: Mapping[str, Any] | None = None
    events: Sequence[Mapping[str, Any]] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)  # run.json as it is

    def stage(self, name: str) -> StageView | None:
        return next((stage for stage in self.stages if stage.name == name), None)

    @property
    def suite(self) -> SuiteView | None:
        """The suite that gain and cost are told by: the first one."""
        return self.suites[0] if self.suites else None

    @property
    def running(self) -> list[StageView]:
        return [stage for stage in self.stages if stage.state == "running"]

    @property
    def evaluation(self) -> EvaluationView | None:
        """The last finished evaluation."""
        found = [stage.verdict for stage in self.stages if stage.verdict is not None]
        return found[-1] if found else None
