"""Rows of data sets on the Hugging Face hub, through `datasets` and its cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from posttrain.config.data import DataSpec
from posttrain.errors import InputError, Problem


def read_hub(spec: DataSpec) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number from 1, row) of a data set. Raises InputError where it cannot be had."""
    import datasets

    try:
        rows = datasets.load_dataset(spec.path, spec.name, split=spec.split, revision=spec.revision)
    except (
        Exception
    ) as error:  # boundary: datasets, its hub client and its HTTP stack have no common base
        raise InputError(_problem(spec, error)) from error
    return enumerate(rows, start=1)


def _problem(spec: DataSpec, error: Exception) -> Problem:
    first_line = str(error).strip().partition("\n")[0]
    kind = type(error).__name__
    offline = isinstance(error, ConnectionError | OSError) or "Offline" in kind or "Connect" in kind
    if "NotFound" in kind and not offline:
        message = f"no data set `{spec.path}` on the hub"
        help = "check the name, or log in if it is private: hf auth login"
        return Problem("unknown-data", message, "data.path", help=help)
    if offline:
        message = f"`{spec.path}` cannot be fetched, and no copy is in the cache ({first_line})"
        help = "connect to the hub, or give a local copy: data.path=train.jsonl.gz"
        return Problem("hub-unreachable", message, "data.path", help=help)
    return Problem("hub-data", f"`{spec.path}`: {first_line}", "data", help="name, split, revision")
