"""The Tracker of one stage: files first, W&B second, explanations on top.

A row is written to `metrics.jsonl` before anything else sees it. All calls return quickly and none
raises: a number that cannot be recorded is not worth a stopped training run.
"""

from __future__ import annotations

import functools
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec

import yaml

from posttrain.track.explain import Explainer, StageFacts
from posttrain.track.jsonl import JsonlWriter, read_jsonl
from posttrain.track.overlap import OverlapWatch
from posttrain.track.rows import age_percentiles, merge_rows
from posttrain.track.spans import Span
from posttrain.track.trace import TraceWriter
from posttrain.track.wandb import WandbRun

_log = logging.getLogger(__name__)
_Arguments = ParamSpec("_Arguments")

COUNTERS = (  # drawn under the rows of the trace
    "axis/version",
    "age/buffer_groups",
    "engine/running",
    "engine/waiting",
    "engine/tokens_per_s",
    "train/tokens_per_s",
)


def _never_raises(method: Callable[_Arguments, None]) -> Callable[_Arguments, None]:
    """The named boundary of this module: trouble is logged, the caller goes on."""

    @functools.wraps(method)
    def guarded(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> None:
        try:
            method(*args, **kwargs)
        except Exception:
            _log.exception("tracking failed in %s; training goes on", method.__name__)

    return guarded


class StageTracker:
    """Implements `posttrain.ports.Tracker` over a stage folder; safe to call from several threads.

    Pickled, it carries its folder but not the W&B run: a copy in another process writes the same
    files (lines are appended whole) and sends nothing.
    """

    def __init__(
        self,
        directory: Path | str,
        stage: str,
        attempt: int = 0,
        wandb: WandbRun | None = None,
        facts: StageFacts | None = None,
    ) -> None:
        self.directory = Path(directory)
        self.stage = stage
        self.attempt = attempt
        self._wandb = wandb
        self._facts = facts
        self._lock = threading.RLock()
        self._events = JsonlWriter(self.directory / "events.jsonl", _log.warning)
        self._metrics = JsonlWriter(self.directory / "metrics.jsonl", self._file_trouble)
        self._samples = JsonlWriter(self.directory / "samples.jsonl", self._file_trouble)
        self._trace: TraceWriter | None = None  # only stages that tell spans have one
        self._overlap = OverlapWatch()
        self._began = time.time() - _earlier_seconds(self.directory)
        self._pending: dict[str, float] = {}
        self._explainer: Explainer | None = None
        if wandb is not None:
            wandb.say_to(self._wandb_says)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.directory, self.stage, self.attempt, None, self._facts)

    @_never_raises
    def log(self, metrics: Mapping[str, float], **axes: float) -> None:
        """Metrics by full name (`train/loss`) at axes such as step, version, tokens."""
        now = time.time()
        row: dict[str, float] = {"axis/time_s": round(now - self._began, 3)}
        row |= {
            f"axis/{name}": number
            for name, value in axes.items()
            if (number := _number(value)) is not None
        }
        row |= {
            name: number
            for name, value in metrics.items()
            if (number := _number(value)) is not None
        }
        row |= self._derived(row, now)
        self._metrics.append({"time": now, "attempt": self.attempt, **row})
        if self._wandb is not None:
            self._wandb.log(row)
        with self._lock:
            self._explain(row)

    @_never_raises
    def event(self, name: str, **details: Any) -> None:
        """Something that happened: restart, sync, stop, dropped, waiting, ..."""
        self._events.append({"time": time.time(), "stage": self.stage, "name": name, **details})

    @_never_raises
    def span(self, track: str, name: str, start_s: float, end_s: float, **details: Any) -> None:
        """One bar of the trace; times are of time.time()."""
        self._take_spans([Span(track, name, start_s, end_s, details)])

    @_never_raises
    def spans(self, spans: Sequence[Span]) -> None:
        """Many bars at once, as they come from another process."""
        self._take_spans([Span(*span) for span in spans])

    def _take_spans(self, spans: Sequence[Span]) -> None:
        with self._lock:
            for span in spans:
                self._overlap.add(span)
            if self._trace is None:
                self._trace = TraceWriter(self.directory, self.stage, self._file_trouble)
        self._trace.spans(spans)

    def _derived(self, row: Mapping[str, float], now: float) -> dict[str, float]:
        """What follows from numbers and spans that came from several processes."""
        derived = age_percentiles(row)
        if "trainer/busy_share" in row:  # the trainer's row: one per step
            with self._lock:
                share = self._overlap.share(now)
            if share is not None:
                derived["overlap/both_busy_share"] = share
        if self._trace is not None:
            curves = {name: row[name] for name in COUNTERS if name in row}
            self._trace.counters(now, curves)
        return {name: value for name, value in derived.items() if name not in row}

    @_never_raises
    def samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """A few rendered rollouts of one step."""
        full = [{"step": step, **row} for row in rows]
        for row in full:
            self._samples.append(row)
        if self._wandb is not None and full:
            self._wandb.samples(full)

    @_never_raises
    def close(self) -> None:
        """Explain the last step and let the files go. The W&B run is finished by who opened it."""
        with self._lock:
            self._observe_pending()
        if self._trace is not None:
            self._trace.close()
        for writer in (self._metrics, self._samples, self._events):
            writer.close()

    def _explain(self, row: Mapping[str, float]) -> None:
        """Rows of one step are merged; the step is explained when the next one begins."""
        step = row.get("axis/step")
        if step is None:
            return
        if self._pending and self._pending.get("axis/step") != step:
            self._observe_pending()
        self._pending |= row

    def _observe_pending(self) -> None:
        if not self._pending:
            return
        row, self._pending = self._pending, {}
        if self._explainer is None:
            self._explainer = self._explainer_with_history(before=row["axis/step"])
        appearing, over = self._explainer.observe(row)
        step = int(row["axis/step"])
        for note in appearing:
            self.event("note", step=step, verdict=note.verdict, code=note.code, text=note.text)
            if self._wandb is not None and note.verdict == "act":
                self._wandb.alert(note.code, note.line)
        for code in over:
            self.event("note_over", step=step, code=code)

    def _explainer_with_history(self, before: float) -> Explainer:
        """After a restart the beginning is in the file; what was said then is not repeated."""
        explainer = Explainer(self._facts or _facts(self.directory))
        for row in merge_rows(read_jsonl(self.directory / "metrics.jsonl")):
            if row["axis/step"] < before:
                explainer.observe(row)
        return explainer

    def _wandb_says(self, text: str) -> None:
        self.event("wandb", text=text)

    def _file_trouble(self, text: str) -> None:
        self.event("disk", text=text)
        _log.warning("%s", text)


def _number(value: Any) -> float | None:
    """A plain float (or int) of anything number-like; None where it is none."""
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, int | float):
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _earlier_seconds(directory: Path) -> float:
    """How long earlier attempts took, so that `axis/time_s` goes on where they ended."""
    try:
        told = json.loads((directory / "manifest.json").read_text("utf-8")).get("seconds")
    except (OSError, ValueError, AttributeError):
        told = None
    times = [row.get("axis/time_s") for row in read_jsonl(directory / "metrics.jsonl")[-20:]]
    known = [value for value in (told, *times) if isinstance(value, int | float)]
    return float(max(known, default=0.0))


def _facts(directory: Path) -> StageFacts:
    try:
        config = yaml.safe_load((directory / "config.yaml").read_text("utf-8"))
    except (OSError, yaml.YAMLError):
        config = None
    return StageFacts.from_config(config) if isinstance(config, Mapping) else StageFacts()
