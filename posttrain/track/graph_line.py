"""The graph of stages in text: `base → sft ┬→ rm` with what runs side by side below one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def graph_lines(
    needs: Mapping[str, Sequence[str]], labels: Mapping[str, str] | None = None, width: int = 80
) -> list[str]:
    """Stages left to right by depth, those of equal depth below one another, at most `width` wide.

    An edge that skips a column is not drawn: the order is what a reader needs here, the report's
    graph has every edge. Stages are taken in the mapping's order.
    """
    names = {name: (labels or {}).get(name, name) for name in needs}
    columns = columns_of(needs)
    height = max((len(column) for column in columns), default=0)
    lines = [""] * height
    for index, column in enumerate(columns):
        last = index == len(columns) - 1
        cell = max(len(names[name]) for name in column)
        following = len(columns[index + 1]) if not last else 0
        for row in range(height):
            name = names[column[row]] if row < len(column) else ""
            joins = len(column) > 1 and following == 1 and name
            lines[row] += f"{name + ' ':─<{cell + 1}}" if joins else f"{name:<{cell}}"
            lines[row] += "" if last else _joint(row, len(column), following)
    return _wrapped([line.rstrip() for line in lines], names, columns, width)


def _depths(needs: Mapping[str, Sequence[str]]) -> dict[str, int]:
    depths: dict[str, int] = {}
    for _ in needs:  # as many rounds as the longest path may have
        for name, inputs in needs.items():
            known = [depths.get(other, 0) + 1 for other in inputs if other in needs]
            depths[name] = max(known, default=0)
    return depths


def columns_of(needs: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Stages by depth: column 0 needs nothing, each other stage stands right of all it needs."""
    depths = _depths(needs)
    columns: list[list[str]] = [[] for _ in range(max(depths.values(), default=-1) + 1)]
    for name, depth in depths.items():
        columns[depth].append(name)
    return columns


def _joint(row: int, here: int, following: int) -> str:
    """What stands between two columns in one row."""
    if here == 1 and following == 1:
        return " → " if row == 0 else "   "
    if here == 1:  # fans out
        marks = {0: " ┬→ "}
        inner = " ├→ " if row < following - 1 else " └→ "
        return marks.get(row, inner if row < following else "    ")
    if following == 1:  # comes together
        if row == 0:
            return "─┬→ "
        inner = "─┤  " if row < here - 1 else "─┘  "
        return inner if row < here else "    "
    return " → " if row < min(here, following) else "   "


def _wrapped(
    lines: list[str], names: Mapping[str, str], columns: Sequence[Sequence[str]], width: int
) -> list[str]:
    """Too wide for the screen: the plain order instead, broken at arrows."""
    if all(len(line) <= width for line in lines):
        return lines
    steps = [" + ".join(names[name] for name in column) for column in columns]
    wrapped, current = [], ""
    for step in steps:
        joined = f"{current} → {step}" if current else step
        if current and len(joined) > width - 2:
            wrapped.append(f"{current} →")
            current = step
        else:
            current = joined
    return [*wrapped, current]
