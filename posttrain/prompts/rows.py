"""Rows of .jsonl, .jsonl.gz, .parquet and .csv files, with our column names, each by file and line.

A row that does not parse, or lacks what is needed, is refused with its line, or skipped and
counted, as `data.bad_rows` says. Names that are no file are read from a hub (`hub.py`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.config.data import DataSpec
from posttrain.config.document import show_path
from posttrain.config.paths import DATA_SUFFIXES, looks_like_a_file, neighbour
from posttrain.config.suggest import did_you_mean
from posttrain.errors import InputError, Problem
from posttrain.prompts.columns import theirs, value_of
from posttrain.prompts.comparisons import as_wanted
from posttrain.prompts.faults import column_help, meets, row_fault
from posttrain.prompts.formats import CUT, Fault, raw_rows

_HUB_NAME = re.compile(r"^[\w.-]+/[\w.-]+$")


class RowReader:
    """Iterates over (line, row). `skipped` counts the rows left out so far, `rows` those given."""

    def __init__(
        self,
        spec: DataSpec,
        limit: int | None,
        needs: Sequence[str],
        where: str,
        limit_bytes: int | None,
    ) -> None:
        self._spec = spec
        self._limit = limit
        self._needs = needs
        self._where = where
        self._limit_bytes = limit_bytes
        self.skipped = 0
        self.rows = 0
        self.complete = False  # whether the end of the data was reached

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        self.skipped = self.rows = 0
        self.complete = True
        for file in [None] if is_hub_name(self._spec.path) else data_files(self._spec):
            yield from self._read(file)
            if self.rows == self._limit:
                self.complete = False
                return
        if self.rows == 0:
            raise InputError(self._empty())

    def _read(self, file: Path | None) -> Iterator[tuple[int, dict[str, Any]]]:
        raw = _from_hub(self._spec) if file is None else raw_rows(file, self._limit_bytes)
        shown = self._spec.path if file is None else show_path(file)
        for line, row in raw:
            if row is CUT:
                self.complete = False
                return
            usable = self._usable(shown, line, row)
            if isinstance(usable, Fault):
                if self._spec.bad_rows == "refuse":
                    raise InputError(self._bad_rows(shown, line, usable, raw))
                self.skipped += 1
                continue
            yield line, usable
            self.rows += 1
            if self.rows == self._limit:
                return

    def _usable(self, shown: str, line: int, row: dict[str, Any] | Fault) -> dict[str, Any] | Fault:
        """The row with our names; a fault; or InputError where the columns are not those needed."""
        if isinstance(row, Fault):
            return row
        columns = self._spec.columns
        named = row | {
            ours: value_of(column, row)
            for ours, column in columns.items()
            if all(each in row for each in theirs(column))
        }
        wanted = as_wanted(named, self._needs)
        if isinstance(wanted, str):
            return Fault(wanted)
        named = wanted
        if self.rows == self.skipped == 0:
            self._check_columns(shown, line, row, named)
        fault = row_fault(named, self._needs)
        return Fault(fault) if fault else named

    def _check_columns(
        self, shown: str, line: int, row: Mapping[str, Any], named: Mapping[str, Any]
    ) -> None:
        has = ", ".join(row) or "nothing"
        wanted = [(ours, each) for ours, c in self._spec.columns.items() for each in theirs(c)]
        for ours, each in wanted:
            if each not in row:
                message = f"no column `{each}` (data.columns.{ours}); has {has}"
                help = did_you_mean(each, row, "columns:")
                raise InputError(Problem("missing-column", message, self._where, shown, line, help))
        if not meets(named, self._needs):
            message = f"needs {', '.join(self._needs)}; has {has}"
            help = column_help(self._needs, list(named))
            raise InputError(Problem("missing-column", message, self._where, shown, line, help))

    def _bad_rows(
        self, shown: str, line: int, fault: Fault, rest: Iterator[tuple[int, Any]]
    ) -> list[Problem]:
        """The first bad row, how many follow it, and whether the others have the right columns."""
        more: list[int] = []
        others: list[Problem] = []
        for number, row in rest:
            try:
                if row is not CUT and isinstance(self._usable(shown, number, row), Fault):
                    more.append(number)
            except InputError as error:
                others = error.problems
                break
        also = f"; {len(more)} more: {', '.join(map(str, more[:3]))}" if more else ""
        also += ", ..." if len(more) > 3 else ""
        help = "mend the rows, or `data.bad_rows: skip` leaves them out and counts them"
        message = f"{fault.message}{also}"
        return [Problem("bad-row", message, self._where, shown, line, help), *others]

    def _empty(self) -> Problem:
        path = self._spec.path
        shown = path if is_hub_name(path) else show_path(path)
        if self.skipped:
            message = f"holds no row that can be used ({self.skipped} skipped)"
            help = "`data.bad_rows: refuse` says what is wrong with the first"
            return Problem("empty-data", message, self._where, shown, None, help)
        example = dict.fromkeys(self._needs or ["prompt"], "...")
        help = f"one row per line: {json.dumps(example)}"
        return Problem("empty-data", "holds no rows", self._where, shown, None, help)


def read_rows(
    spec: DataSpec,
    limit: int | None = None,
    *,
    needs: Sequence[str] = (),
    where: str = "",
    limit_bytes: int | None = None,
) -> RowReader:
    """(line, row) of every row of a file, folder or hub data set, with our column names added.

    `needs` are the columns that each row must have as text (`messages` stands for all of them);
    `where` is put behind the place in messages, as in `(stage sft)`; `limit` stops after so many
    rows, `limit_bytes` after so much of a file. Reading raises InputError for a missing file,
    missing columns, a bad row (unless skipped) and data without rows.
    """
    return RowReader(spec, limit, needs, where, limit_bytes)


def is_hub_name(path: str) -> bool:
    """Whether a path is `org/name` and no file here, so that it has to be a data set on a hub."""
    return bool(_HUB_NAME.match(path)) and not looks_like_a_file(path) and not Path(path).exists()


def data_files(spec: DataSpec) -> list[Path]:
    """The files of a data set on disk: itself, or those of a folder.

    Of a folder that has files named after `split` (`train.jsonl`, `train-00000-of-00001.parquet`),
    only those. Raises InputError where there is none.
    """
    path = Path(spec.path)
    shown = show_path(path)
    if path.is_file():
        if not path.name.endswith(DATA_SUFFIXES):
            message = f"`{path.suffix or path.name}` is no format that can be read"
            help = f"one of {', '.join(DATA_SUFFIXES)}"
            raise InputError(Problem("unknown-format", message, file=shown, help=help))
        return [path]
    if not path.is_dir():
        near = neighbour(str(path.absolute()))
        help = f"did you mean `{show_path(near)}`?" if near else ""
        if not near and "/" not in spec.path:
            help = "a name on the hub has the form org/name"
        raise InputError(Problem("missing-file", "no such file", file=shown, help=help))
    folder = path / spec.name if spec.name and (path / spec.name).is_dir() else path
    files = sorted(_below(folder))
    if not files:
        message = f"holds no {', '.join(DATA_SUFFIXES)} file"
        raise InputError(Problem("missing-file", message, file=shown))
    of_split = [each for each in files if re.match(rf"{re.escape(spec.split)}[-.]", each.name)]
    return of_split or files


def _below(folder: Path) -> Iterator[Path]:
    """Data files in a folder and two levels under it; what may not be read is passed over."""
    for here, names, files in os.walk(folder):
        if len(Path(here).relative_to(folder).parts) == 2:
            names.clear()
        yield from (Path(here, name) for name in files if name.endswith(DATA_SUFFIXES))


def data_fingerprint(spec: DataSpec) -> str:
    """Sixteen hex digits that change when the content of the data may: what identities count.

    Files by their bytes; the micro world by its generator's version; a hub data set by name,
    configuration, split and revision.
    """
    if spec.path.startswith("microworld/"):
        from posttrain.microworld import GENERATOR_VERSION

        return _digest("microworld", GENERATOR_VERSION, spec.path, spec.split)
    if is_hub_name(spec.path):
        return _digest("hub", spec.path, spec.name, spec.split, spec.revision)
    total = hashlib.sha256()
    for file in data_files(spec):
        with file.open("rb") as opened:
            total.update(hashlib.file_digest(opened, "sha256").digest())
    return total.hexdigest()[:16]


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _from_hub(spec: DataSpec) -> Iterator[tuple[int, dict[str, Any]]]:
    from posttrain.prompts.hub import read_hub

    return read_hub(spec)
