"""`posttrain reward`: what a reward says of one answer, and whether it can be trusted."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from posttrain.errors import InputError, Problem

ALWAYS_SOUND = ("asked twice", "time")  # also where nothing was asked
MARKS = {"sound": "✓", "note": "·", "unsound": "✗"}


class Action(StrEnum):
    """What is done with the reward."""

    TRY = "try"
    AUDIT = "audit"


def reward(
    action: Annotated[Action, typer.Argument(help="try: score one answer. audit: try to fool it.")],
    name: Annotated[str, typer.Argument(help="A shipped reward, ./mine.py, or a module.")],
    data: Annotated[
        Path | None, typer.Argument(help="audit: rows to try it on (.jsonl, .parquet, .csv).")
    ] = None,
    row: Annotated[
        str, typer.Option("--row", help="try: the row as JSON, or FILE:LINE.", metavar="JSON")
    ] = "{}",
    completion: Annotated[
        str, typer.Option("--completion", help="try: the answer; - reads it from a pipe.")
    ] = "-",
    settings: Annotated[
        str, typer.Option("--settings", help="The reward's settings as JSON.", metavar="JSON")
    ] = "{}",
    rows: Annotated[int, typer.Option("--rows", min=1, help="audit: rows of DATA to try.")] = 200,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0.001, help="Seconds for one answer.")
    ] = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON line.")] = False,
) -> int:
    """Score one answer, or look for ways to fool a reward; exit code 1 where one is found."""
    from posttrain.config.plugin import Plugin
    from posttrain.config.plugins import with_parts

    chosen = _object(settings, "--settings")
    for _ in with_parts(Plugin(name=name, settings=chosen), None, "--settings"):
        pass  # a reward that is made of others: their settings too are looked at before work starts
    if action is Action.TRY:
        return _try(name, chosen, _row(row), _text(completion), timeout_s, as_json)
    return _audit(name, chosen, _rows_of(data, rows), timeout_s, as_json)


def _try(
    name: str,
    settings: dict[str, Any],
    row: dict[str, Any],
    answer: str,
    timeout_s: float,
    as_json: bool,
) -> int:
    from posttrain.reward.worker import RewardPool

    with RewardPool(name, settings, timeout_s) as pool:
        (outcome,) = pool.score([row], [answer])
    if isinstance(outcome, Exception):
        raise outcome
    if as_json:
        print(
            json.dumps(
                {
                    "value": outcome.value,
                    "passed": outcome.passed,
                    "parts": dict(outcome.parts),
                    "reason": outcome.reason,
                    "seconds": outcome.seconds,
                }
            )
        )
        return 0
    verdict = {True: "right", False: "wrong", None: "no opinion of right and wrong"}
    print(f"score   {outcome.value:g}   {verdict[outcome.passed]}")
    if outcome.reason:
        print(f"reason  {outcome.reason}")
    for part, value in outcome.parts.items():
        print(f"part    {part} {value:g}")
    print(f"time    {1000 * outcome.seconds:.3g} ms")
    return 0


def _audit(
    name: str,
    settings: dict[str, Any],
    rows: list[dict[str, Any]],
    timeout_s: float,
    as_json: bool,
) -> int:
    from posttrain.reward.audit import audit

    findings = audit(name, settings, rows, timeout_s)
    unsound = [each for each in findings if each.verdict == "unsound"]
    if as_json:
        print(json.dumps([[each.about, each.verdict, each.detail] for each in findings]))
        return 1 if unsound else 0
    for each in findings:
        print(f"{MARKS[each.verdict]} {each.about:<18} {each.detail}")
    if unsound:
        print(f"{name} can be fooled or breaks: {', '.join(each.about for each in unsound)}")
        return 1
    asked = any(each.verdict == "sound" for each in findings if each.about not in ALWAYS_SOUND)
    print(f"{name} is sound" if asked else f"{name} has no examples to be asked about")
    return 0


def _object(text: str, option: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            Problem("usage", f"{option} is not JSON: {error.msg}", help='{"answer": "72"}')
        ) from error
    if not isinstance(value, dict):
        raise InputError(Problem("usage", f"{option} has to be an object", help='{"answer": "72"}'))
    return value


def _row(text: str) -> dict[str, Any]:
    """A row given as JSON, or as FILE:LINE."""
    if text.lstrip().startswith("{"):
        return _object(text, "--row")
    path, colon, number = text.rpartition(":")
    if not colon or not number.isdigit():
        help = '--row \'{"answer": "72"}\', or --row data.jsonl:3'
        raise InputError(Problem("usage", "--row is neither JSON nor FILE:LINE", help=help))
    for line, row in _read(Path(path), int(number)):
        if line == int(number):
            return row
    raise InputError(Problem("usage", f"{path} has no row in line {number}", help="count from 1"))


def _rows_of(data: Path | None, most: int) -> list[dict[str, Any]]:
    return [row for _, row in _read(data, most)] if data is not None else []


def _read(path: Path, most: int) -> list[tuple[int, dict[str, Any]]]:
    from posttrain.config.data import DataSpec
    from posttrain.prompts.rows import read_rows

    return list(read_rows(DataSpec(path=str(path)), limit=most))


def _text(completion: str) -> str:
    if completion != "-":
        return completion
    if sys.stdin is None:  # closed: `... <&-`
        raise InputError(
            Problem("usage", "there is no standard input", help="--completion 'the answer'")
        )
    return sys.stdin.read()
