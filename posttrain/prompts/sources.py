"""Rows of a data set, wherever they come from: the micro world, a file, or a hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from posttrain.config.pipeline import DataSpec
from posttrain.prompts.microworld import generate
from posttrain.prompts.rows import read_rows

MICROWORLD = "microworld/"


def read_source(
    spec: DataSpec, *, seed: int, needs: Sequence[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, row) of every row, with our column names; numbers are line numbers in files.

    `needs` are the columns that each row must have. `seed` matters to the micro world only.
    Raises InputError for rows that do not parse or lack a column.
    """
    if spec.path.startswith(MICROWORLD):
        rows = generate(spec.path, spec.split, seed, spec.take, flip_labels=spec.flip_labels)
        yield from enumerate(rows, start=1)
        return
    yield from islice(read_rows(spec, needs=needs), spec.take)
