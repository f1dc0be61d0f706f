"""Reads a run folder into a RunView, tolerantly: a file that is missing or half there is skipped.

`RunReader` keeps its place in the growing files, so that a screen can ask four times a second.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from posttrain.track.find_run import RunPlace, find_run
from posttrain.track.jsonl import JsonlFollower
from posttrain.track.rows import MergedRows, last_values
from posttrain.track.run_parts import (
    evaluation_of,
    measurements_of,
    notes_of,
    number,
    read_json,
    read_yaml,
    suites_of,
)
from posttrain.track.views import RunState, RunView, StageState, StageView

__all__ = ["RunPlace", "RunReader", "find_run", "read_run", "status_json"]

SAMPLES_KEPT = 256
ETA_STEPS = 10  # the pace of the last so many steps


class RunReader:
    """Reads one run folder again and again; `view()` is cheap where little was appended."""

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)
        self._events = JsonlFollower(self.directory / "events.jsonl")
        self._event_rows: list[dict[str, Any]] = []
        self._stages: dict[Path, _StageFiles] = {}

    def view(self, now: float | None = None) -> RunView:
        """The run as it is now (`now` is for tests)."""
        moment = time.time() if now is None else now
        meta = read_json(self.directory / "run.json")
        self._event_rows += self._events.read_new()
        alive = _is_alive(meta)
        stages = tuple(self._stage(entry, moment, alive) for entry in meta.get("stages") or ())
        started = number(meta.get("started"))
        ended = number(meta.get("ended"))
        state = str(meta.get("state", "running"))
        if state == "running" and not alive:
            state = "stopped"
            ended = max((_last_sign(stage) for stage in stages), default=started or moment)
        return RunView(
            directory=self.directory,
            name=str(meta.get("name", self.directory.name)),
            run_id=str(meta.get("run_id", "")),
            state=cast(RunState, state),
            stages=stages,
            suites=suites_of(meta.get("suites")),
            now=moment,
            started=started,
            seconds=None if started is None else (ended or moment) - started,
            description=str(meta.get("description", "")),
            command=str(meta.get("command", "")),
            host=str(meta.get("host", "")),
            wandb=str(meta.get("wandb", "offline")),
            recommended=meta.get("recommended"),
            error=meta.get("error"),
            events=tuple(self._event_rows),
            meta=meta,
        )

    def _stage(self, entry: Mapping[str, Any], now: float, alive: bool) -> StageView:
        begun = [
            number(event.get("time"))
            for event in self._event_rows
            if event.get("name") == "stage-started" and event.get("stage") == entry["name"]
        ]
        directory = self.directory / str(entry["name"]) / str(entry.get("identity") or "-")
        files = self._stages.setdefault(directory, _StageFiles(directory))
        return files.view(entry, now, alive, begun[-1] if begun else None)


class _StageFiles:
    """The files of one stage folder, followed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._metrics = JsonlFollower(directory / "metrics.jsonl")
        self._followers = {
            name: JsonlFollower(directory / f"{name}.jsonl") for name in ("events", "samples")
        }
        self._lines: dict[str, list[dict[str, Any]]] = {name: [] for name in self._followers}
        self._merged = MergedRows()
        self._rows: list[dict[str, float]] = []
        self._last: dict[str, float] = {}
        self._config: dict[str, Any] = {}

    def view(
        self, entry: Mapping[str, Any], now: float, alive: bool, begun: float | None
    ) -> StageView:
        for name, follower in self._followers.items():
            self._lines[name] += follower.read_new()
        self._read_metrics()
        self._lines["samples"] = self._lines["samples"][-SAMPLES_KEPT:]
        self._config = self._config or read_yaml(self._directory / "config.yaml")
        manifest = read_json(self._directory / "manifest.json")
        state = str(manifest.get("state", "waiting"))
        if state == "running" and not alive:
            state = "stopped"
        verdict = evaluation_of(read_json(self._directory / "measurements.json"))
        metrics: dict[str, Any] = dict(manifest.get("metrics") or {})
        metrics |= self._last
        if verdict is not None:
            metrics["models"] = {
                model: {task: result.value.as_dict() for task, result in found.tasks.items()}
                for model, found in verdict.models.items()
            }
        step, steps = self._progress(manifest)
        started = number(manifest.get("started"))
        seconds = number(manifest.get("seconds"))
        if state == "running" and started is not None:
            before = seconds or 0.0  # of earlier attempts
            seconds = before + now - (begun if begun is not None else started + before)
        return StageView(
            name=str(entry["name"]),
            kind=str(entry.get("kind", "")),
            state=cast(StageState, state),
            identity=entry.get("identity"),
            why=str(entry.get("why", "new")),
            description=str(entry.get("description", "")),
            needs=tuple(entry.get("needs") or ()),
            directory=self._directory,
            started=started,
            seconds=seconds,
            step=step,
            steps=steps,
            eta_s=_eta(self._rows, step, steps, now) if state == "running" else None,
            artifact=manifest.get("artifact"),
            metrics=metrics,
            rows=self._rows,
            notes=notes_of(self._lines["events"]),
            events=tuple(self._lines["events"]),
            samples=self._lines["samples"],
            measurements=measurements_of(self._directory / "measurements"),
            verdict=verdict,
            error=manifest.get("error"),
            manifest=manifest,
            config=self._config,
        )

    def _read_metrics(self) -> None:
        """Line by line: of a long run they are hundreds of megabytes as lists."""
        is_new = False
        for line in self._metrics.new_rows():
            self._merged.add((line,))
            self._last |= last_values((line,))
            is_new = True
        if is_new:
            self._rows = self._merged.rows()

    def _progress(self, manifest: Mapping[str, Any]) -> tuple[int | None, int | None]:
        """Steps done and steps to do. RL counts steps from 0: its step n makes version n + 1."""
        last = self._rows[-1] if self._rows else {}
        recorded = int(last.get("axis/version", last["axis/step"])) if last else None
        steps = manifest.get("steps") or self._config.get("steps")
        return recorded, steps if isinstance(steps, int) else None


def read_run(directory: Path | str, now: float | None = None) -> RunView:
    """One reading of a run folder. An empty or missing folder gives a run without stages."""
    return RunReader(directory).view(now)


def status_json(view: RunView) -> dict[str, Any]:
    """What `posttrain status --json` prints; keys are only ever added."""
    return {
        "run": view.name,
        "stages": [
            {
                "name": stage.name,
                "kind": stage.kind,
                "state": stage.state,
                "identity": stage.identity,
                "artifact": stage.artifact,
                "seconds": stage.seconds,
                "metrics": dict(stage.metrics),
                "step": stage.step,
                "steps": stage.steps,
                "eta_s": stage.eta_s,
            }
            for stage in view.stages
        ],
    }


def _is_alive(meta: Mapping[str, Any]) -> bool:
    """Whether the process that writes the run may still be there; unknown hosts count as alive."""
    pid = meta.get("pid")
    if not isinstance(pid, int) or meta.get("host") != socket.gethostname():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _last_sign(stage: StageView) -> float:
    times = [row.get("time", 0.0) for row in (*stage.rows[-1:], *stage.events[-1:])]
    ended = (stage.started or 0.0) + (stage.seconds or 0.0) if stage.state == "done" else 0.0
    return max([*times, stage.started or 0.0, ended])


def _eta(
    rows: Sequence[Mapping[str, float]], step: int | None, steps: int | None, now: float
) -> float | None:
    """Seconds left at the pace of the last steps; a step that takes long counts as it goes."""
    attempt = rows[-1].get("attempt") if rows else None
    recent = [
        row for row in rows[-ETA_STEPS - 1 :] if "time" in row and row.get("attempt") == attempt
    ]
    if not steps or step is None or len(recent) < 2:
        return None
    done = recent[-1]["axis/step"] - recent[0]["axis/step"]
    if done <= 0:
        return None
    pace = (recent[-1]["time"] - recent[0]["time"]) / done
    since = min(max(0.0, now - recent[-1]["time"]), pace)
    return round(max(0.0, (steps - step) * pace - since), 1)
