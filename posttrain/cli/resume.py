"""`posttrain resume`: go on with a run that was stopped, failed or killed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from posttrain.cli.run import RUNS_DIR, Address, Json, RunsDir
from posttrain.errors import InputError, Problem

if TYPE_CHECKING:
    from posttrain.config.load import LoadedPipeline


def resume(
    run: Annotated[
        str | None, typer.Argument(help="Name of the run; the newest where not given.")
    ] = None,
    as_run: Annotated[
        bool, typer.Option("--as-run", help="With the configuration stored in the run folder.")
    ] = False,
    runs_dir: RunsDir = RUNS_DIR,
    address: Address = None,
    json: Json = False,
) -> int:
    """Go on where a run stopped: finished stages are kept, an unfinished one goes on from its
    last whole checkpoint."""
    from posttrain.cli.execute import Execution, RunOptions
    from posttrain.config.load import load_pipeline
    from posttrain.pipeline.store import RunFolder
    from posttrain.track.run_view import find_run

    folder = RunFolder(find_run(runs_dir, run).directory)
    before = folder.read()
    stored = load_pipeline(str(folder.path / "pipeline.yaml"))
    loaded = stored
    if not as_run and Path(before["file"]).exists():
        loaded = load_pipeline(before["file"], before["overrides"])
        _refuse_changes(folder, stored, loaded, before)
    kept = [stage["name"] for stage in before["stages"] if _is_done(folder, stage)]
    print(
        f"{before['name']} {_how_it_ended(before)}; kept: {', '.join(kept) or 'nothing yet'}",
        file=sys.stderr,
    )
    options = RunOptions(runs_dir, folder.path.name, address, json, tuple(before["overrides"]))
    Execution(loaded, options).carry_out()
    return 0


def _is_done(folder: Any, stage: dict[str, Any]) -> bool:
    return folder.stage(stage["name"], stage["identity"]).is_done


def _how_it_ended(before: dict[str, Any]) -> str:
    words = {
        "running": "was killed",
        "stopped": "was stopped",
        "failed": "failed",
        "done": "is done",
    }
    return words.get(before["state"], f"ended with `{before['state']}`")


def _refuse_changes(
    folder: Any, stored: LoadedPipeline, loaded: LoadedPipeline, before: dict[str, Any]
) -> None:
    """A stage that is done must not silently be done again because its file was edited."""
    from posttrain.pipeline.graph import build_graph
    from posttrain.pipeline.plan import make_plan

    if loaded.problems:
        return  # `run` reports them all
    graph = build_graph(loaded.draft, loaded.places, loaded.unreadable)
    if graph.problems:
        return
    done = {s["name"]: s["identity"] for s in before["stages"] if _is_done(folder, s)}
    plan = make_plan(loaded, graph, folder)
    changed = [s for s in plan.stages if s.name in done and s.identity != done[s.name]]
    if not changed:
        return
    first = changed[0]
    what = first.why.removeprefix("changed: ")
    raise InputError(
        Problem(
            "config-changed",
            f"stage {first.name} is done, and {Path(before['file']).name} now says {what}",
            path="resume:",
            help=f"`resume --as-run` goes on with the stored config; `run` does {first.name} and "
            f"what depends on it again ({len(changed)} finished stages)",
        )
    )
