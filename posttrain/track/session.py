"""All stages' trackers of one run, in whatever process holds it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.config.pipeline import WandbSettings
from posttrain.files import write_json
from posttrain.track.jsonl import read_jsonl
from posttrain.track.rows import last_values, merge_rows
from posttrain.track.spans import Span
from posttrain.track.stage_tracker import StageTracker
from posttrain.track.wandb import WandbPlan, WandbRun

OPEN_STAGES = ".open_stages.json"


class TrackSession:
    """Opens a StageTracker (and a W&B run) per stage, and closes them.

    Which stages are open stands in a file, so that a process that follows one that was killed can
    go on with them.
    """

    def __init__(self, run_directory: Path, wandb_settings: Mapping[str, Any]) -> None:
        self._run_directory = run_directory
        self._settings = WandbSettings.model_validate(dict(wandb_settings))
        self._trackers: dict[str, StageTracker] = {}
        self._wandb: dict[str, WandbRun] = {}
        self._open: dict[str, Mapping[str, Any]] = {}  # what each was opened with

    def open(
        self,
        *,
        name: str,
        kind: str,
        identity: str,
        directory: str,
        attempt: int,
        config: Mapping[str, Any],
        inputs: Mapping[str, str],
        run_name: str,
        run_id: str,
    ) -> None:
        """Begin a stage; a resumed one goes on in the same files and the same W&B run. Opening what
        is open changes nothing.
        """
        if name in self._trackers:
            return
        own = {key: value for key, value in locals().items() if key != "self"}
        plan = WandbPlan(
            run_directory=self._run_directory,
            run_name=run_name,
            run_id=run_id,
            stage=name,
            kind=kind,
            identity=identity,
            settings=self._settings,
            config=config,
            inputs=inputs,
        )
        self._wandb[name] = WandbRun(plan)
        self._trackers[name] = StageTracker(directory, name, attempt, self._wandb[name])
        self._open[name] = own
        self._remember()

    def reopen(self) -> None:
        """Go on with what the process before this one had open."""
        path = self._run_directory / OPEN_STAGES
        if not path.exists():
            return
        for stage in json.loads(path.read_text()):
            self.open(**stage)
            self._trackers[stage["name"]].event("tracker-restarted")

    def _remember(self) -> None:
        path = self._run_directory / OPEN_STAGES
        if not self._open:
            path.unlink(missing_ok=True)
            return
        write_json(path, list(self._open.values()))

    def stage(self, name: str) -> StageTracker:
        return self._trackers[name]

    def spans(self, name: str, spans: Sequence[Span]) -> None:
        """Spans travel late: those of a stage that was closed meanwhile are left out."""
        tracker = self._trackers.get(name)
        if tracker is not None:
            tracker.spans(spans)

    def close_stage(self, name: str, summary: Mapping[str, Any]) -> dict[str, float]:
        """Flush a stage's files and finish its W&B run; the last value of each metric."""
        tracker = self._trackers.pop(name)
        tracker.close()
        self._wandb.pop(name).finish(exit_code=0 if summary.get("state") == "done" else 1)
        rows = merge_rows(read_jsonl(tracker.directory / "metrics.jsonl"))
        del self._open[name]
        self._remember()
        return last_values(rows)

    def close(self) -> None:
        for name in list(self._trackers):
            self.close_stage(name, {"state": "stopped"})
