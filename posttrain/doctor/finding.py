"""One line of `posttrain doctor`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "watch", "act"]
MARKS: dict[Verdict, str] = {"ok": "✓", "watch": "!", "act": "✗"}


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one thing. `act`: a run would fail; `watch`: it works, not as it could.

    Example: Finding("open files", "watch", "at most 1024", "ulimit -n 65536")
    """

    name: str
    verdict: Verdict
    text: str
    help: str = ""  # something to paste


def lines(findings: Iterable[Finding]) -> list[str]:
    """`✓ ok     machine      2 cores, 24 GB`, and a help line under what is not well."""
    shown = []
    for each in findings:
        mark = MARKS[each.verdict]
        shown.append(f" {mark} {each.verdict:<5}  {each.name:<13} {each.text}")
        if each.help:
            shown.append(f"   help: {each.help}")
    return shown


def summary(findings: Iterable[Finding], seconds: float) -> str:
    """`1 to act on, 2 to watch, 0.4 s`"""
    verdicts = [each.verdict for each in findings]
    act, watch = verdicts.count("act"), verdicts.count("watch")
    told = [f"{act} to act on"] if act else []
    told += [f"{watch} to watch"] if watch else []
    return f"{', '.join(told) or 'nothing to act on'}, {seconds:.1f} s"
