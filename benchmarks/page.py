"""All results on one page: results/README.md, written anew after every benchmark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HEAD = """\
# What was measured

Written by `make bench` (`make bench NAME=...` for one), from the files beside it. Each benchmark's
module says what it does and why. The value is what is compared with the goal: the median, unless
the module says otherwise; the spread is the smallest and the largest sample. Ratios are of two
things measured in turns in one run, because machines are noisy.
"""
MARKS = {True: "met", False: "**not met**", None: ""}


def write_page(results: Path) -> Path:
    """Collect every results/NAME.json."""
    documents = [json.loads(path.read_text()) for path in sorted(results.glob("*.json"))]
    path = results / "README.md"
    path.write_text("\n".join([HEAD, *map(_section, documents)]))
    return path


def _section(document: dict[str, Any]) -> str:
    machine, versions, git = document["machine"], document["versions"], document["git"]
    commit = git.get("commit", "unknown")[:10] + (", with changes" if git.get("dirty") else "")
    named = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    settings = ", ".join(f"{key} {_plain(value)}" for key, value in document["settings"].items())
    rows = "\n".join(_row(figure) for figure in document["figures"])
    return f"""\
## {document["benchmark"]}

| figure | value | goal | | median | spread |
|---|---|---|---|---|---|
{rows}

{machine["cores"]} cores, {machine["memory_gb"]} GB, {machine["system"]}; {named}; commit {commit}.
Settings: {settings or "none"}.
"""


def _row(figure: dict[str, Any]) -> str:
    low, high = figure["spread"]
    goal = f"{figure['comparison']} {figure['goal']:g}" if figure["goal"] is not None else ""
    name = figure["name"].replace("|", "\\|")
    return (
        f"| {name} | {figure['value']:.4g} {figure['unit']} | {goal} | {MARKS[figure['met']]} | "
        f"{figure['median']:.4g} | {low:.4g} to {high:.4g} |"
    )


def _plain(value: Any) -> str:
    return str(value).replace("\n", " ").replace("|", "\\|")
