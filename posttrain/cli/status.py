"""`posttrain status`: how far a run is. Reads the run folder only, also from another machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from posttrain.cli.run import RUNS_DIR, RunsDir

if TYPE_CHECKING:
    from posttrain.track.views import StageView


def status(
    run: Annotated[
        str | None, typer.Argument(help="Name of the run, or its folder; the newest otherwise.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")] = False,
    runs_dir: RunsDir = RUNS_DIR,
) -> int:
    """Say how far the newest run (or the one named) is, and what it has found."""
    from posttrain.track.mishaps import mishap_summary
    from posttrain.track.run_view import find_run, read_run, status_json
    from posttrain.track.summary import end_of_run, finished_line

    directory: Path = find_run(runs_dir, run).directory
    view = read_run(directory)
    if as_json:
        print(json.dumps(status_json(view), ensure_ascii=False))
        return 0
    if view.state != "running":
        print(end_of_run(view))
        return 0
    for stage in view.stages:
        print(finished_line(stage, view) + _where(stage))
        for note in stage.active_notes[:1]:
            print(f"   {note.line}")
    mishaps = mishap_summary(view)
    if mishaps:
        print(f"   {mishaps}")
    return 0


def _where(stage: StageView) -> str:
    """Nothing before the first step; of how many where that is known beforehand."""
    if stage.state != "running" or stage.step is None:
        return ""
    return f"  step {stage.step}" + (f"/{stage.steps}" if stage.steps else "")
