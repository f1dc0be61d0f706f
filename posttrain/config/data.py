"""Where rows come from: one data set, or a mixture of several under names of their own."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from posttrain.config.field_sentences import sentences
from posttrain.config.strict import Contradiction, StrictModel, short_form

_PART_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]*$")

_SHORT = short_form("path")


class DataSpec(StrictModel):
    """Rows for a stage: made by the micro world, read from a file or a hub, or several of these."""

    path: str = ""
    """`microworld/NAME`, a .jsonl, .jsonl.gz, .parquet or .csv file, a folder, or a hub name."""
    stage: str | None = None
    """In place of `path`: a `generate` stage, whose selected rows these are."""
    name: str | None = None
    """Configuration of a hub data set (`main` of openai/gsm8k)."""
    split: str = "train"
    """Split of a hub data set or of a micro-world source; ignored for files."""
    revision: str | None = None
    """Commit or tag of a hub data set; the newest where not given."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our column name: the name in the file, as in {prompt: question, completion: answer}, or a
    text with several of its columns: {prompt: "{text} Your code has to pass: {test_list}"}."""
    too_long: Literal["refuse", "drop"] = "refuse"
    """What to do with rows that do not fit the model's context: stop, or leave out and count."""
    bad_rows: Literal["refuse", "skip"] = "refuse"
    """What to do with rows that do not parse: stop, or leave out and count."""
    take: int | None = Field(default=None, gt=0)
    """Only the first so many rows."""
    flip_labels: float = Field(default=0.0, ge=0.0, le=0.5)
    """The share of comparisons in which the two answers change places, to see what wrong labels
    do."""
    mix: dict[str, Annotated[DataSpec, _SHORT]] = Field(default_factory=dict)
    """In place of `path`: data sets by names of yours, read one after the other; each row's column
    `source` is the name of its part."""
    decontaminate: str | None = None
    """A suite: rows whose prompts overlap with questions of its tasks are left out and counted."""

    @field_validator("mix")
    @classmethod
    def _of_single_data_sets(cls, parts: dict[str, DataSpec]) -> dict[str, DataSpec]:
        for name, part in parts.items():
            if not _PART_NAME.match(name):
                raise Contradiction(f"`{name}` is no name for a part", "letters, digits, `_`, `-`")
            if part.mix:
                raise Contradiction(
                    f"`{name}` is a mixture itself", "name its parts here: mixtures are not nested"
                )
        return parts

    @model_validator(mode="after")
    def _one_origin(self) -> DataSpec:
        if self.path and self.stage:
            raise Contradiction("`stage` beside `path`", "one of the two")
        if not self.path and not self.stage and not self.mix:
            raise Contradiction("`path` is missing", sentences(type(self))["path"], "missing-key")
        beside = [f"`{key}`" for key in _OF_ONE if getattr(self, key) != _default(key)]
        if self.mix and beside:
            raise Contradiction(
                f"{', '.join(beside)} beside `mix`, which is not one data set",
                "give each part its own: mix: {NAME: {path: ..., take: 2000}}",
            )
        return self

    @property
    def parts(self) -> dict[str, DataSpec]:
        """The data sets to read, in order, by what their rows are called: names, else the path or
        the stage.
        """
        if not self.mix:
            return {self.path or str(self.stage): self}
        if self.decontaminate is None:
            return self.mix
        whole = {"decontaminate": self.decontaminate}
        return {
            name: part if part.decontaminate else part.model_copy(update=whole)
            for name, part in self.mix.items()
        }

    @property
    def shown(self) -> str:
        """`rows.jsonl`, or `gsm8k + ifeval`."""
        return self.path or self.stage or " + ".join(self.mix)


_OF_ONE = tuple(key for key in DataSpec.model_fields if key not in ("mix", "decontaminate"))
"""Keys that mean something for a single data set only."""


def _default(key: str) -> Any:
    return DataSpec.model_fields[key].get_default(call_default_factory=True)


Data = Annotated[DataSpec, _SHORT]


class ResolvedData(DataSpec):
    """Data as it travels to the process that reads it: with the questions of the suites and the
    files of the stages that it names.

    Wherever a stage is written down, it is a DataSpec like any other, without them.
    """

    questions: dict[str, dict[str, DataSpec]] = Field(default_factory=dict)
    """Suite: task: where its questions come from."""
    files: dict[str, str] = Field(default_factory=dict)
    """`generate` stage: the file with its selected rows."""
