"""Printing problems: for people on stderr, for programs as JSON, for GitHub as annotations.

Narration goes to stderr, data to stdout. Colour never stands alone: every mark has its word.
NO_COLOR, TERM=dumb and pipes are honoured.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from posttrain.config.document import COMMAND_LINE
from posttrain.errors import Problem

SCHEMA = 1


def print_problems(problems: Sequence[Problem]) -> None:
    """Every problem with its cure, on stderr."""
    if not problems:
        return
    from rich.console import Console

    console = Console(
        stderr=True,
        soft_wrap=True,
        highlight=False,
        no_color=bool(os.environ.get("NO_COLOR")) or None,
    )
    for problem in problems:
        console.print(_styled(problem))


def _styled(problem: Problem) -> Any:
    from rich.text import Text

    colour = "bold red" if problem.severity == "error" else "bold yellow"
    place = f" {problem.place}" if problem.place else ""
    text = Text()
    text.append(f"{problem.severity}[{problem.code}]", style=colour)
    text.append(place, style="bold")
    text.append(f": {problem.message}")
    if problem.help:
        text.append("\n  ")
        text.append("help:", style="cyan")
        text.append(f" {problem.help}")
    return text


def as_json(problem: Problem) -> dict[str, Any]:
    """A problem's fields, those that programs rely on."""
    return asdict(problem)


def print_json_lines(problems: Sequence[Problem]) -> None:
    """One JSON object per problem, on stdout."""
    for problem in problems:
        print(json.dumps({"schema": SCHEMA, "event": "problem"} | as_json(problem)))


def print_github(problems: Sequence[Problem]) -> None:
    """Workflow commands that GitHub shows beside the line, on stdout."""
    for problem in problems:
        body = f"{problem.path}: {problem.message}" if problem.path else problem.message
        body = f"{body}\nhelp: {problem.help}" if problem.help else body
        file = "" if problem.file == COMMAND_LINE else problem.file
        fields = {"file": file, "line": problem.line, "title": problem.code}
        listed = ",".join(f"{key}={_property(value)}" for key, value in fields.items() if value)
        print(f"::{problem.severity} {listed}::{_data(body)}")


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(value: object) -> str:
    return _data(str(value)).replace(":", "%3A").replace(",", "%2C")


def say(text: str) -> None:
    """One line of narration, on stderr."""
    print(text, file=sys.stderr)
