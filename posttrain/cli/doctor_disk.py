"""What `posttrain clean` could free, for `posttrain doctor` where the disk is nearly full."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from posttrain.doctor.finding import Finding
from posttrain.errors import InputError
from posttrain.pipeline.removable import Kind, size, totals
from posttrain.pipeline.run_inventory import removable
from posttrain.pipeline.store import RunFolder

KINDS: tuple[Kind, ...] = ("checkpoints", "stages")


def with_freeable(disk: Finding, runs_dir: Path) -> Finding:
    """The finding, its help naming the run of which most could be freed, and how much."""
    if disk.verdict == "ok":
        return disk
    freeable = {run.parent.name: _freeable(run.parent) for run in runs_dir.glob("*/run.json")}
    most = max(freeable, key=lambda name: sum(freeable[name].values()), default="")
    if not most or not freeable[most]:
        return disk
    flags = " ".join(f"--{kind}" for kind in freeable[most])
    frees = size(sum(freeable[most].values()))
    return replace(disk, help=f"posttrain clean {most} {flags}   (frees {frees})")


def _freeable(run: Path) -> dict[Kind, int]:
    """Bytes by kind; nothing of a run that is being written, or cannot be read."""
    folder = RunFolder(run)
    try:
        sums = {} if folder.is_being_written() else totals(removable(folder))
    except (InputError, OSError):
        return {}
    return {kind: number for kind in KINDS if (number := sums.get(kind, 0))}
