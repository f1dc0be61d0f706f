"""`posttrain run`: do everything in a pipeline file that is not done already."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RUNS_DIR = Path("runs")

RunsDir = Annotated[Path, typer.Option("--runs-dir", help="Folder that holds the run folders.")]
Address = Annotated[
    str | None,
    typer.Option("--address", help="A running Ray cluster; without it a local one is started."),
]
Json = Annotated[bool, typer.Option("--json", help="Print events as JSON lines.")]


def run(
    file: Annotated[str, typer.Argument(help="A pipeline file, or the name of a shipped one.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Values to set: stages.rlvr.steps=20")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Name of the run folder; the file's name otherwise."),
    ] = None,
    runs_dir: RunsDir = RUNS_DIR,
    address: Address = None,
    json: Json = False,
    smoke: Annotated[
        bool,
        typer.Option("--smoke", help="Two steps of every stage, on this machine, in NAME-smoke."),
    ] = False,
) -> int:
    """Run every stage that is not done, and show how it goes.

    Ctrl-C is safe: what runs is saved, `posttrain resume` goes on. Exit code 0: done; 1: a stage
    failed; 2: bad input, nothing was started; 3: a gate said stop; 130: interrupted.
    """
    from posttrain.cli.execute import Execution, RunOptions
    from posttrain.config.load import load_pipeline

    given = overrides or []
    loaded = load_pipeline(file, given)
    if smoke:
        from posttrain.cli.smoke import run_smoke

        run_smoke(file, loaded, RunOptions(runs_dir, name, address, json, tuple(given), smoke=True))
        return 0
    Execution(loaded, RunOptions(runs_dir, name, address, json, tuple(given))).carry_out()
    return 0
