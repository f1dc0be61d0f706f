"""`posttrain run`: do everything in a pipeline file that is not done already."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from posttrain.errors import InputError, Problem

RUNS_DIR = Path("runs")

RunsDir = Annotated[Path, typer.Option("--runs-dir", help="Folder that holds the run folders.")]
Address = Annotated[
    str | None,
    typer.Option("--address", help="A running Ray cluster; without it a local one is started."),
]
WaitForCluster = Annotated[
    str | None,
    typer.Option("--wait-for-cluster", help="How long to wait for nodes that are missing: 30m"),
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
    wait_for_cluster: WaitForCluster = None,
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
    options = RunOptions(
        runs_dir, name, address, json, tuple(given), smoke,
        wait_for_cluster_s=seconds_to_wait(wait_for_cluster, address),
    )  # fmt: skip
    if smoke:
        from posttrain.cli.smoke import run_smoke

        run_smoke(file, loaded, options)
    else:
        Execution(loaded, options).carry_out()
    return 0


def seconds_to_wait(text: str | None, address: str | None) -> float:
    """Of `30m`, `90s` or `2h`; 0 without. Raises InputError, also where no cluster is joined."""
    if text is None:
        return 0.0
    unit = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(text[-1:])
    if unit is None or not text[:-1].isdigit():
        raise InputError(
            Problem("usage", f"{text} is no duration", "--wait-for-cluster", help="30m, 90s or 2h")
        )
    if address is None:
        message = "there is no cluster to wait for"
        help = "--address HOST:PORT; without it the run has this machine alone"
        raise InputError(Problem("usage", message, "--wait-for-cluster", help=help))
    return unit * int(text[:-1])
