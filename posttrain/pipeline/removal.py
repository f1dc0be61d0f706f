"""Removes parts of a run folder so that a stop at any moment leaves a run that is whole.

Each folder is first renamed, in one step, to a hidden one at the top of the run: whoever reads the
run sees all of it, or nothing. A model that lost half of its files would otherwise still count as
done. A hidden folder that a stop leaves there is a leftover that the next removal takes.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path

from posttrain.errors import NotRemoved
from posttrain.pipeline.removable import TRASH, Removable, size


def remove(run: Path, chosen: Iterable[Removable]) -> int:
    """Remove what `removable` listed of a run, whose lock the caller holds. Returns bytes freed.

    Raises NotRemoved, after everything else was tried, where something is still there.
    """
    root = run.resolve()
    freed, failures = 0, []
    for each in chosen:
        try:
            _remove(root, each.path)
            freed += each.bytes
        except OSError as error:
            failures.append(f"{each.path}: {error.strerror or error}")
    if failures:
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        raise NotRemoved(
            f"{failures[0]}{more}; {size(freed)} were freed",
            place=str(run),
            help="look at who owns it, and whether it is a mount: ls -ld " + str(each.path.parent),
        )
    return freed


def _remove(root: Path, path: Path) -> None:
    _refuse_links(root, path)
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    if path.parent == root and path.name.startswith(TRASH):
        shutil.rmtree(path)
        return
    trash = root / f"{TRASH}{secrets.token_hex(8)}"
    path.rename(trash)  # no folder is made for it: a full disk may have no room for one
    shutil.rmtree(trash)
    if path.parent.parent == root and not any(path.parent.iterdir()):
        path.parent.rmdir()  # of a stage whose last identity is gone


def _refuse_links(root: Path, path: Path) -> None:
    """Raises OSError where the way from the run to `path` leads through a link, or out of it."""
    for parent in path.parents:
        if parent == root:
            return
        if parent.is_symlink():
            raise OSError(f"{parent} is a link: what lies behind it is not the run's")
    raise OSError(f"not inside {root}")
