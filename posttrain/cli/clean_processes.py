"""`posttrain clean --processes`: ends what runs that are gone have left on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from posttrain.cli.output import SCHEMA, say
from posttrain.cluster.leftovers import (
    Leftover,
    end_leftovers,
    leftover_folders,
    leftover_processes,
    remove_leftover_folders,
)
from posttrain.errors import NotRemoved


def clean_processes(dry_run: bool, as_json: bool) -> None:
    """End left-over processes, then remove their folders; `dry_run` only says which.

    Raises NotRemoved where a process will not end.
    """
    found = leftover_processes()
    alive = [] if dry_run else end_leftovers(found)
    folders = leftover_folders() if dry_run else remove_leftover_folders()
    if as_json:
        _print_json(found, alive, folders)
    else:
        _print_lines(found, folders)
        say(_sentence(len(found) - len(alive), len(folders), dry_run))
    if alive:
        numbers = " ".join(map(str, alive))
        raise NotRemoved(f"processes that do not end: {numbers}", help=f"kill -9 {numbers}")


def _print_lines(found: Iterable[Leftover], folders: Iterable[Path]) -> None:
    for each in found:
        print(f"process {each.pid}  {each.name}, its driver {each.driver_pid} is gone")
    for folder in folders:
        print(f"folder {folder}")


def _sentence(num_processes: int, num_folders: int, dry_run: bool) -> str:
    """`2 processes ended, 1 folder removed`"""
    if not num_processes and not num_folders:
        return "no process or folder of a run that is gone"
    processes = f"{num_processes} process{'' if num_processes == 1 else 'es'}"
    folders = f"{num_folders} folder{'' if num_folders == 1 else 's'}"
    if dry_run:
        return f"{processes} and {folders} of runs that are gone; nothing was touched"
    return f"{processes} ended, {folders} removed"


def _print_json(found: Iterable[Leftover], alive: list[int], folders: Iterable[Path]) -> None:
    document = {
        "schema": SCHEMA,
        "processes": [
            {"pid": each.pid, "name": each.name, "driver_pid": each.driver_pid} for each in found
        ],
        "alive": alive,
        "folders": [str(folder) for folder in folders],
    }
    print(json.dumps(document, ensure_ascii=False))
