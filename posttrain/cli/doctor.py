"""`posttrain doctor`: what this machine can do, and what is wrong with it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from posttrain.cli.output import SCHEMA, say
from posttrain.cli.run import RUNS_DIR, RunsDir

if TYPE_CHECKING:
    from posttrain.doctor.finding import Finding

STYLES = {"ok": "green", "watch": "yellow", "act": "bold red"}


def doctor(
    file: Annotated[
        str | None,
        typer.Argument(help="A pipeline file, or a shipped one's name: does it fit?"),
    ] = None,
    engine: Annotated[
        bool,
        typer.Option(
            "--engine",
            help="Also import what is large, start an engine, and compare its log-probs with the "
            "trainer's (a minute).",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")] = False,
    runs_dir: RunsDir = RUNS_DIR,
) -> int:
    """Say what this machine can do, what is wrong with it, and what to do about that.

    Asks no network, changes nothing, and starts nothing but what --engine asks for. Exit code 0: a
    run can work here, perhaps not as well as it could (`watch`); 1: something is to be acted on
    first (`act`), so that scripts can stop there.
    """
    from posttrain.doctor.finding import lines, summary

    started = time.perf_counter()
    findings = _findings(file, engine, runs_dir)
    seconds = time.perf_counter() - started
    needs_action = any(each.verdict == "act" for each in findings)
    if as_json:
        document = {
            "schema": SCHEMA,
            "ok": not needs_action,
            "findings": [asdict(each) for each in findings],
            "seconds": round(seconds, 3),
        }
        print(json.dumps(document, ensure_ascii=False))
    else:
        _print(findings, lines(findings))
        say(summary(findings, seconds))
    return 1 if needs_action else 0


def _findings(file: str | None, engine: bool, runs_dir: Path) -> list[Finding]:
    from posttrain.cli.doctor_disk import with_freeable
    from posttrain.cli.doctor_file import file_findings, wandb_mode
    from posttrain.doctor.machine import machine_findings, read_machine
    from posttrain.doctor.packages import package_findings, read_installed
    from posttrain.doctor.services import hub_findings, read_cache, wandb_finding
    from posttrain.doctor.storage import read_storage, storage_findings
    from posttrain.track.wandb_plan import has_key

    machine = read_machine()
    num_gpus = len(machine.gpus.devices)
    runs, temporary, shared = read_storage(runs_dir)
    found = [
        *package_findings(read_installed(), num_gpus),
        *machine_findings(machine),
        *storage_findings(runs, temporary, shared),
        wandb_finding(has_key(), wandb_mode(file)),
        *hub_findings(read_cache()),
        *_leftovers(),
    ]
    if engine:
        from posttrain.doctor.engine import engine_finding
        from posttrain.doctor.imports import import_findings

        found += import_findings()
        print("starting an engine", file=sys.stderr)
        found.append(engine_finding())
    if file is not None:
        found += file_findings(file, runs_dir, runs, num_gpus)
    return [with_freeable(each, runs_dir) if each.name == "disk" else each for each in found]


def _leftovers() -> list[Finding]:
    """Of runs that are gone; on systems that do not show processes none are known."""
    from posttrain.doctor.finding import Finding

    try:
        from posttrain.cluster.leftovers import leftover_folders, leftover_processes

        processes, folders = leftover_processes(), leftover_folders()
    except Exception as error:  # boundary: psutil on a system that hides what it reads
        return [Finding("leftovers", "watch", f"cannot be looked for: {error}", "ps aux")]
    if not processes and not folders:
        return [Finding("leftovers", "ok", "nothing of runs that are gone")]
    pids = f" ({', '.join(str(each.pid) for each in processes[:8])})" if processes else ""
    number = f"{len(processes)} process{'' if len(processes) == 1 else 'es'}{pids}"
    text = f"{number} and {len(folders)} folder{'' if len(folders) == 1 else 's'}"
    text += " of runs that are gone"
    return [Finding("leftovers", "watch", text, "posttrain clean --processes")]


def _print(findings: Sequence[Finding], shown: Sequence[str]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(
        soft_wrap=True, highlight=False, no_color=bool(os.environ.get("NO_COLOR")) or None
    )
    verdicts = iter(each.verdict for each in findings)
    for line in shown:
        text = Text(line)
        if line.startswith("   help:"):
            text.stylize("cyan", 3, 8)
        else:
            text.stylize(STYLES[next(verdicts)], 1, 8)
        console.print(text)
