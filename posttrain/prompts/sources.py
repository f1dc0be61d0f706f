"""Rows of the data of a stage: data sets of the micro world, of files and hubs, and mixtures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Any

from posttrain.config.data import DataSpec, ResolvedData
from posttrain.prompts.comparisons import turned_round
from posttrain.prompts.microworld import generate
from posttrain.prompts.rows import read_rows

MICROWORLD = "microworld/"
EVALUATION_SEED = 20_000_003
"""Every model and every stage is asked the same questions, with the same sampling noise."""


@dataclass(frozen=True, slots=True)
class DataRow:
    """A row, and where it stands: `DataRow("gsm8k", train, 17, {"prompt": ...})` is line 17."""

    part: str  # its name in the mixture; the path of data that is none
    data: DataSpec  # of the part
    number: int
    row: dict[str, Any]  # with our column names

    @property
    def source(self) -> str:
        """What counts and rewards tell it apart by: its column `source`, or else its part."""
        named = self.row.get("source")
        return named if isinstance(named, str) and named else self.part


def read_data(data: DataSpec, *, seed: int, needs: Sequence[str]) -> Iterator[DataRow]:
    """Every row of every part, part after part; see `read_source`.

    In a mixture the column `source` is the name of the part, also where the part has such a column
    itself: names chosen here cannot clash, and those of two files may. Rows of a stage are read
    from the file that `data.files` has for it.
    """
    files = data.files if isinstance(data, ResolvedData) else {}
    for name, named in data.parts.items():
        part = named if named.stage is None else _located(named, files[named.stage])
        for number, row in read_source(part, seed=seed, needs=needs):
            yield DataRow(name, part, number, row | {"source": name} if data.mix else row)


def read_source(
    spec: DataSpec, *, seed: int, needs: Sequence[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, row) of one data set, with our column names; numbers are line numbers in files.

    `needs` are the columns that each row must have. `seed` decides what the micro world asks, and
    which labels are flipped.
    Raises InputError for rows that do not parse or lack a column.
    """
    if spec.path.startswith(MICROWORLD):
        rows = generate(spec.path, spec.split, seed, spec.take, flip_labels=spec.flip_labels)
        yield from enumerate(rows, start=1)
        return
    for number, row in islice(read_rows(spec, needs=needs), spec.take):
        flips = spec.flip_labels and Random(f"{seed}/{number}").random() < spec.flip_labels
        yield number, turned_round(row) if flips else row


def _located(part: DataSpec, file: str) -> DataSpec:
    return part.model_copy(update={"path": file, "stage": None})
