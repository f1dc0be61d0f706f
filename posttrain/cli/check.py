"""`posttrain check`: all mistakes of a pipeline file at once, without starting anything."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer

from posttrain.cli import STARTED
from posttrain.cli.output import SCHEMA, as_json, print_github, print_problems, say
from posttrain.errors import InputError, Problem


class Format(StrEnum):
    """How problems are printed."""

    text = "text"
    json = "json"
    github = "github"


def check(
    file: Annotated[str, typer.Argument(help="A pipeline file, or the name of a shipped one.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Values to set: stages.rlvr.steps=20")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON, for editors.")] = False,
    format: Annotated[
        Format, typer.Option(help="text, json, or github (annotations).")
    ] = Format.text,
    every_row: Annotated[
        bool, typer.Option("--every-row", help="Read data files whole, not only their beginning.")
    ] = False,
) -> int:
    """Say everything that is wrong with a pipeline, and how much work it is.

    Starts nothing and imports no torch. Exit code 0: nothing wrong; 2: something is.
    """
    from posttrain.config.load import load_pipeline
    from posttrain.pipeline.check import check as look

    problems: Sequence[Problem]
    notes: Sequence[str] = ()
    try:
        report = look(load_pipeline(file, overrides or []), every_row=every_row)
        problems, notes = report.problems, report.notes
    except InputError as error:
        problems = error.problems
    form = Format.json if json_output else format
    if form is Format.json:
        _print_json(file, problems, notes)
    elif form is Format.github:
        print_github(problems)
    else:
        print_problems(problems)
        for note in notes:
            print(note)
        say(_summary(problems))
    return 2 if _count(problems, "error") else 0


def _count(problems: Sequence[Problem], severity: str) -> int:
    return sum(problem.severity == severity for problem in problems)


def _summary(problems: Sequence[Problem]) -> str:
    """`5 errors, 0 warnings, 0.4 s. Nothing was started. More: posttrain explain cycle`"""
    numbers = ", ".join(
        f"{number} {noun}{'' if number == 1 else 's'}"
        for noun in ("error", "warning")
        for number in [_count(problems, noun)]
    )
    seconds = time.perf_counter() - STARTED
    line = f"{numbers}, {seconds:.1f} s. Nothing was started."
    return f"{line} More: posttrain explain {problems[0].code}" if problems else line


def _print_json(file: str, problems: Sequence[Problem], notes: Sequence[str]) -> None:
    report = {
        "schema": SCHEMA,
        "file": file,
        "errors": _count(problems, "error"),
        "warnings": _count(problems, "warning"),
        "problems": [as_json(problem) for problem in problems],
        "notes": list(notes),
        "seconds": round(time.perf_counter() - STARTED, 3),
    }
    print(json.dumps(report, ensure_ascii=False, indent=1))
