"""The formats that rows are read from: .jsonl, .jsonl.gz, .csv and .parquet."""

from __future__ import annotations

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.config.document import show_path
from posttrain.errors import InputError, Problem
from posttrain.prompts.faults import json_fault


@dataclass(frozen=True, slots=True)
class Fault:
    """A row that cannot be used, and why."""

    message: str


CUT = Fault("not read")
"""Stands where reading stopped at `limit_bytes`."""


def raw_rows(file: Path, limit_bytes: int | None) -> Iterator[tuple[int, Any]]:
    """(line, row or Fault) of one file, by its ending. Raises InputError where it cannot be read.

    `limit_bytes` ends a .jsonl file early, with CUT as the last row.
    """
    if file.suffix == ".parquet":
        return _parquet_rows(file)
    if file.suffix == ".csv":
        return _csv_rows(file)
    return _jsonl_rows(file, limit_bytes)


def _jsonl_rows(file: Path, limit_bytes: int | None) -> Iterator[tuple[int, Any]]:
    read = 0
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as opened:
            for number, line in enumerate(opened, start=1):
                read += len(line)
                if limit_bytes is not None and read > limit_bytes and number > 1:
                    yield number, CUT
                    return
                if not line.isspace():
                    yield number, _parse(line)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(_unreadable(file, error)) from error


def _parse(line: bytes) -> dict[str, Any] | Fault:
    try:
        row = json.loads(line.rstrip(b"\r\n").decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        return Fault(json_fault(error))
    except UnicodeDecodeError as error:
        return Fault(f"not UTF-8 at byte {error.start + 1}")
    except RecursionError:
        return Fault("not JSON, nested too deep")
    if not isinstance(row, dict):
        return Fault(f"is {json.dumps(row)[:40]}, has to be an object: {{...}}")
    return row


def _csv_rows(file: Path) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(sys.maxsize)
    line = 0
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.reader(opened, strict=True)
            header = next(reader, [])
            for row in reader:
                line = reader.line_num
                if len(row) == len(header):
                    yield line, dict(zip(header, row, strict=True))
                elif row:
                    yield line, Fault(f"has {len(row)} fields, the first line {len(header)}")
    except csv.Error as error:
        message = f"not CSV, {error} in the row after line {line}"
        raise InputError(Problem("unreadable-file", message, file=show_path(file))) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(_unreadable(file, error)) from error


def _parquet_rows(file: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file) as opened:
            for batch in opened.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(_unreadable(file, error)) from error


def _unreadable(file: Path, error: BaseException) -> Problem:
    message = f"cannot be read: {str(error).partition('. ')[0] or type(error).__name__}"
    help = "download it again, or write it as .jsonl"
    return Problem("unreadable-file", message, file=show_path(file), help=help)
