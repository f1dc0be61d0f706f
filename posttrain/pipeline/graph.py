"""The graph of a pipeline: who needs whose result, in which order, and what cannot be.

References are names of stages under the keys `model`, `models`, `pre`, `post` and a suite's
`tax_since`. Gates name stages too, but may only look back: they make no edge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from posttrain.config.document import Places
from posttrain.config.pipeline import Pipeline
from posttrain.errors import Problem
from posttrain.pipeline.looking_back import check_gates, check_tax_since
from posttrain.pipeline.references import Findings, references, resolve


@dataclass(frozen=True, slots=True)
class Graph:
    """Who needs whom. Example: Graph(("base", "sft"), {"base": (), "sft": ("base",)}, ())"""

    order: tuple[str, ...]  # every stage after what it needs; file order among equals
    needs: Mapping[str, tuple[str, ...]]  # stage -> stages whose results it reads
    problems: tuple[Problem, ...]

    def ancestors(self, stage: str) -> set[str]:
        """Every stage that has to be done before this one."""
        found: set[str] = set()
        waiting = list(self.needs.get(stage, ()))
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting.extend(self.needs.get(name, ()))
        return found


def build_graph(
    pipeline: Pipeline,
    places: Places | None = None,
    unreadable: Mapping[str, str | None] | None = None,
) -> Graph:
    """The graph and everything wrong with it.

    `places` gives problems their lines. `unreadable` are stages that could not be read, with their
    kinds: references to them are not reported a second time.
    """
    findings = Findings(pipeline, places or Places(), unreadable or {})
    needs = {
        name: resolve(findings, name, references(name, stage, pipeline.suites))
        for name, stage in pipeline.stages.items()
    }
    order, cycles = sort(needs)
    for cycle in cycles:
        _add_cycle(findings, cycle)
    graph = Graph(tuple(order), needs, ())
    is_whole = not (findings.problems or findings.unreadable)
    for name, stage in pipeline.stages.items():
        # While edges are missing or run in a circle, nobody knows what comes before what.
        before = graph.ancestors(name) if is_whole else set(pipeline.stages)
        check_gates(findings, name, stage, [each for each in pipeline.stages if each in before])
    for name, suite in pipeline.suites.items():
        check_tax_since(findings, name, suite)
    return Graph(tuple(order), needs, tuple(findings.problems))


def sort(needs: Mapping[str, tuple[str, ...]]) -> tuple[list[str], list[list[str]]]:
    """(stages in an order that works, file order among equals; every cycle found).

    Example: sort({"b": ("a",), "a": ()}) is (["a", "b"], []).
    """
    order: list[str] = []
    cycles: list[list[str]] = []
    done: set[str] = set()
    while len(done) < len(needs):
        waiting = (name for name in needs if name not in done)
        name = next((each for each in waiting if done.issuperset(needs[each])), None)
        if name is None:  # go on as if the cycle were done: there may be others
            cycles.append(_cycle(needs, done))
            done.update(cycles[-1])
        else:
            order.append(name)
            done.add(name)
    return order, cycles


def _cycle(needs: Mapping[str, tuple[str, ...]], done: set[str]) -> list[str]:
    """A cycle among the stages that are not done: a, b, a."""
    path = [next(name for name in needs if name not in done)]
    while path.count(path[-1]) == 1:
        path.append(next(each for each in needs[path[-1]] if each not in done))
    return path[path.index(path[-1]) :]


def _add_cycle(findings: Findings, cycle: list[str]) -> None:
    names = list(findings.pipeline.stages)
    start = min(range(len(cycle) - 1), key=lambda index: names.index(cycle[index]))
    ring = cycle[:-1]
    ring = [*ring[start:], *ring[:start], ring[start]]
    first = ring[0]
    keys = [
        reference.key
        for reference in references(
            first, findings.pipeline.stages[first], findings.pipeline.suites
        )
        if reference.target == ring[1]
    ]
    file, line = findings.places.of(keys[0] if keys else f"stages.{first}")
    path = f"stages.{' → '.join(ring)}"
    message = "a stage cannot need its own result"
    if len(ring) == 2:
        help = f"let `{first}` read an earlier stage"
    else:
        help = f"let `{ring[0]}` or `{ring[1]}` read an earlier stage"
    findings.problems.append(Problem("cycle", message, path, file, line, help))
