"""`posttrain clean`: what of a run may go, and removing it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from posttrain.cli.output import SCHEMA, say
from posttrain.cli.run import RUNS_DIR, RunsDir
from posttrain.errors import InputError, Problem

if TYPE_CHECKING:
    from posttrain.pipeline.removable import Removable
    from posttrain.pipeline.store import RunFolder


def clean(
    run: Annotated[
        str | None, typer.Argument(help="Name of the run, or its folder; the newest otherwise.")
    ] = None,
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="Remove checkpoints that no resume needs.")
    ] = False,
    stages: Annotated[
        bool, typer.Option("--stages", help="Remove stages as they were before a change.")
    ] = False,
    leftovers: Annotated[
        bool, typer.Option("--leftovers", help="Remove what killed processes left half-written.")
    ] = False,
    processes: Annotated[
        bool,
        typer.Option("--processes", help="End processes of any run whose driver is gone."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Only say what would be removed.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")] = False,
    runs_dir: RunsDir = RUNS_DIR,
) -> int:
    """Say what may go of a run, and remove what is asked for. Without a flag nothing is removed.

    Models, measurements, rollouts and records of stages that the run uses always stay, and so does
    what `resume`, `chat`, `report` or another run needs. Exit code 2: the run is being written.
    """
    if processes:
        from posttrain.cli.clean_processes import clean_processes

        clean_processes(dry_run, as_json)
        if not (checkpoints or stages or leftovers):
            return 0
    from posttrain.pipeline.removable import KINDS

    asked = dict(zip(KINDS, (checkpoints, stages, leftovers), strict=True))
    chosen = [kind for kind in KINDS if asked[kind]]
    _clean_run(_run_folder(runs_dir, run), chosen, dry_run, as_json)
    return 0


def _run_folder(runs_dir: Path, name: str | None) -> RunFolder:
    from posttrain.pipeline.store import RunFolder
    from posttrain.track.find_run import find_run

    place = find_run(runs_dir, name)
    if place.stage is not None:
        help = f"posttrain clean {place.directory.name}"
        raise InputError(Problem("usage", f"`{name}` is a stage; runs are cleaned", help=help))
    return RunFolder(place.directory)


def _clean_run(run: RunFolder, chosen: Sequence[str], dry_run: bool, as_json: bool) -> None:
    from posttrain.pipeline.removal import remove
    from posttrain.pipeline.run_inventory import removable

    with ExitStack() as stack:
        _lock(stack, run)
        found = removable(run)
        named = [each for each in found if each.kind in chosen]
        shown = named if chosen else found
        if not as_json and shown:
            _print_table(run, shown)
        freed = remove(run.path, named) if named and not dry_run else 0
    if as_json:
        _print_json(run, shown, freed, removed=bool(named) and not dry_run)
    else:
        say(_sentence(run, shown, freed, removes=bool(chosen) and not dry_run))
        if shown and not chosen:
            say(f"  help: posttrain clean {run.path.name} {_flags(shown)}")


def _lock(stack: ExitStack, run: RunFolder) -> None:
    """Take the run's lock; where its file system cannot be written, that is said."""
    try:
        stack.enter_context(run.locked())
    except OSError as error:
        message, help = f"cannot be written: {error.strerror}", f"ls -ld {run.path}"
        raise InputError(Problem("not-removed", message, path=str(run.path), help=help)) from error


def _print_table(run: RunFolder, shown: Sequence[Removable]) -> None:
    from rich.console import Console
    from rich.table import Table

    from posttrain.pipeline.removable import size

    root = run.path.resolve()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("frees", "with", "what", "why"):
        right = column == "frees"
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for each in shown:
        what = str(each.path.relative_to(root))
        table.add_row(size(each.bytes), f"--{each.kind}", what, each.why)
    Console(highlight=False).print(table)


def _sentence(run: RunFolder, shown: Sequence[Removable], freed: int, removes: bool) -> str:
    """`mine: 4.1 GB freed`, or what could be."""
    from posttrain.pipeline.removable import size

    if not shown:
        return f"{run.path.name}: nothing to remove"
    if removes:
        return f"{run.path.name}: {size(freed)} freed"
    total = size(sum(each.bytes for each in shown))
    return f"{run.path.name}: {total} could be freed; nothing was removed"


def _flags(shown: Sequence[Removable]) -> str:
    return " ".join(dict.fromkeys(f"--{each.kind}" for each in shown))


def _print_json(run: RunFolder, shown: Sequence[Removable], freed: int, removed: bool) -> None:
    from posttrain.pipeline.removable import totals

    entries: list[dict[str, Any]] = [
        {"kind": each.kind, "path": str(each.path), "bytes": each.bytes, "why": each.why}
        for each in shown
    ]
    document = {
        "schema": SCHEMA,
        "run": run.path.name,
        "removed": removed,
        "freed_bytes": freed,
        "bytes": totals(shown),
        "found": entries,
    }
    print(json.dumps(document, ensure_ascii=False))
