"""Finds the run that a person means by RUN, RUN/STAGE or a path."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from posttrain.errors import InputError, Problem
from posttrain.track.run_parts import number, read_json


@dataclass(frozen=True, slots=True)
class RunPlace:
    """What RUN, RUN/STAGE or a path stands for."""

    directory: Path  # of the run
    stage: str | None = None
    stage_directory: Path | None = None  # with the identity


def find_run(
    runs_directory: Path | str,
    name: str | None = None,
    rather: Callable[[Path], bool] = lambda run: True,
) -> RunPlace:
    """The run that a person means: none given is the newest one, if there is one the newest of
    those that are `rather` meant, and of that one a name may be a stage.

    Raises InputError where there is no such run or stage, with the nearest names.
    """
    runs = Path(runs_directory)
    if name is None:
        newest = _newest(runs, rather)
        if newest is None:
            raise _not_found(f"no run in {runs}", "start one: posttrain run quickstart")
        return RunPlace(newest)
    for base in (runs / name, Path(name).expanduser()):
        if base.exists() or base.parent.exists():
            place = _place_of(base)
            if place is not None:
                return place
    if "/" not in name and (newest := _newest(runs, rather)) is not None:
        place = _place_of(newest / name)
        if place is not None:
            return place
    head = name.split("/", 1)[0]
    near = difflib.get_close_matches(head, [path.name for path in _known_runs(runs)], n=1)
    if near and near[0] == head:
        stages = [str(s["name"]) for s in read_json(runs / head / "run.json").get("stages") or ()]
        raise _not_found(
            f"run `{head}` has no finished stage `{name.split('/', 1)[1]}`",
            f"its stages: {', '.join(stages)}",
        )
    help_line = f"did you mean `{near[0]}`?" if near else "posttrain status lists the newest run"
    raise _not_found(f"no run `{name}` in {runs}", help_line)


def _place_of(path: Path) -> RunPlace | None:
    if (path / "run.json").is_file():
        return RunPlace(path)
    for run in path.parents:
        if not (run / "run.json").is_file():
            continue
        parts = path.relative_to(run).parts
        stage = parts[0]
        if len(parts) > 1 and (run / stage / parts[1]).is_dir():
            return RunPlace(run, stage, run / stage / parts[1])
        newest = _newest_identity(run, stage)
        return RunPlace(run, stage, newest) if newest is not None else None
    return None


def _newest_identity(run: Path, stage: str) -> Path | None:
    for entry in read_json(run / "run.json").get("stages") or ():
        folder = run / stage / str(entry.get("identity"))
        if entry.get("name") == stage and folder.is_dir():
            return folder
    found = [path.parent for path in (run / stage).glob("*/manifest.json")]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _known_runs(runs: Path) -> list[Path]:
    return [path.parent for path in runs.glob("*/run.json")]


def _newest(runs: Path, rather: Callable[[Path], bool]) -> Path | None:
    return max(_known_runs(runs), key=lambda run: (rather(run), _run_time(run)), default=None)


def _run_time(run: Path) -> float:
    return number(read_json(run / "run.json").get("started")) or 0.0


def _not_found(message: str, help: str) -> InputError:
    return InputError(Problem("unknown-run", message, path="command line", help=help))
