"""Runs benchmarks by name (all of them without one), prints a table, writes results/NAME.json
and the page results/README.md.

Each benchmark is a module with `run() -> (figures, settings)`.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.figures import Figure, save
from benchmarks.page import write_page

NOT_BENCHMARKS = {
    "__init__",
    "__main__",
    "arithmetic",
    "drawing",
    "figures",
    "page",
    "product",
    "sleeping",
    "trl_child",
    "workload",
}


def main(names: list[str]) -> int:
    folder = Path(__file__).parent
    known = sorted(p.stem for p in folder.glob("*.py") if p.stem not in NOT_BENCHMARKS)
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"error[unknown-benchmark]: no benchmark `{unknown[0]}`", file=sys.stderr)
        print(f"  help: there are {', '.join(known)}", file=sys.stderr)
        return 2
    missed = 0
    for name in names or known:
        figures, settings = importlib.import_module(f"benchmarks.{name}").run()
        path = save(name, figures, settings)
        print_table(name, figures)
        page = write_page(path.parent)
        for written in (path, page):
            print(f"written: {written.relative_to(folder.parent)}")
        missed += sum(figure.met is False for figure in figures)
    return 1 if missed else 0


def print_table(name: str, figures: list[Figure]) -> None:
    table = Table(title=name, title_justify="left", box=None, pad_edge=False)
    for column in ("figure", "value", "goal", "met", "median", "smallest to largest"):
        table.add_column(column)
    for figure in figures:
        document = figure.to_json()
        low, high = document["spread"]
        met = {True: "✓ met", False: "✗ not met", None: "-"}[figure.met]
        table.add_row(
            figure.name,
            f"{figure.value:.4g} {figure.unit}",
            f"{figure.comparison} {figure.goal:g}" if figure.goal is not None else "-",
            met,
            f"{document['median']:.4g}",
            f"{low:.4g} to {high:.4g}",
        )
    Console(width=140).print(table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
