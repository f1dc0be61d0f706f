"""`posttrain report`: a run as one self-contained page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli.run import RUNS_DIR, RunsDir


def report(
    run: Annotated[
        str | None, typer.Argument(help="Name of the run, or its folder; the newest otherwise.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to write; RUN/report.html otherwise.")
    ] = None,
    runs_dir: RunsDir = RUNS_DIR,
) -> int:
    """Write the report of a run: one HTML file that needs no network."""
    from posttrain.track.report.build import write_report
    from posttrain.track.run_view import find_run

    directory = find_run(runs_dir, run).directory
    path = out or directory / "report.html"
    write_report(directory, path)
    print(path)
    return 0
