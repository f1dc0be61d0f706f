"""Gates: conditions on measurements that a stage's result must meet before more is spent.

arithmetic > sft.arithmetic            this stage's task against an earlier stage's
ifeval > 60        tax < 4             points: shares times 100
average.gain > sft.gain                on an evaluate stage, which has no model of its own
perplexity/wikitext < 1.05 * base      a stage's name alone: its value of the same measure
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from posttrain.config.suggest import closest
from posttrain.types import Interval

Verdict = Literal["pass", "fail", "undecided"]

POINTS = ("gain", "tax")
"""Measures that every suite has, besides its tasks."""

_NUMBER = r"\d+(?:\.\d*)?(?:[eE][-+]?\d+)?"
_WORD = r"[A-Za-z_][\w/-]*(?:\.[A-Za-z_][\w/-]*)?"
_SIDE = re.compile(
    rf"^\s*(?:(?P<factor>{_NUMBER})\s*\*\s*)?(?P<word>{_WORD})\s*(?P<offset>[-+]\s*{_NUMBER})?\s*$"
)
_CONSTANT = re.compile(rf"^\s*(?P<constant>[-+]?{_NUMBER})\s*%?\s*$")
_COMPARISON = re.compile(r"<=|>=|<|>")


@dataclass(frozen=True, slots=True)
class Operand:
    """One side: `factor * stage.measure + offset`; without a measure only the offset counts.

    Example: `1.05 * base` is Operand(None, "base", 1.05), and once resolved in a gate on perplexity
    Operand("base", "perplexity/wikitext", 1.05).
    """

    stage: str | None  # None: the stage that the gate stands on
    measure: str | None
    factor: float = 1.0
    offset: float = 0.0  # in points, or in perplexity

    @property
    def text(self) -> str:
        if self.measure is None:
            return f"{self.offset:g}"
        name = f"{self.stage}.{self.measure}" if self.stage else self.measure
        scaled = name if self.factor == 1.0 else f"{self.factor:g} * {name}"
        return scaled if self.offset == 0.0 else f"{scaled} {self.offset:+g}"


@dataclass(frozen=True, slots=True)
class Gate:
    """A parsed gate. Example: parse_gate("tax < 4").comparison is "<"."""

    left: Operand
    comparison: str
    right: Operand
    text: str

    @property
    def stages(self) -> tuple[str, ...]:
        """Words that name another stage; a bare word on the right may also be a measure."""
        bare = self.right.measure if self.right.stage is None else None
        return tuple(word for word in (self.left.stage, self.right.stage, bare) if word)


@dataclass(frozen=True, slots=True)
class GateResult:
    """What a gate said, and the sentence to show."""

    verdict: Verdict
    text: str


class GateSyntaxError(ValueError):
    """A gate that says nothing. `help` is what to write instead."""

    def __init__(self, message: str, help: str) -> None:
        super().__init__(message)
        self.help = help


def parse_gate(text: str) -> Gate:
    """Read a gate; what its words mean is for `resolve_gate`. Raises GateSyntaxError."""
    sides = _COMPARISON.split(text)
    found = _COMPARISON.search(text)
    if found is None or len(sides) != 2:
        message = f"`{text}` is no comparison"
        raise GateSyntaxError(message, "one of < <= > >=, as in `arithmetic > sft.arithmetic`")
    left, right = (_operand(side, text) for side in sides)
    if left.measure is None:
        message = f"`{text}` starts with a number"
        raise GateSyntaxError(message, "name the measure first: `tax < 4`")
    return Gate(left, found.group(), right, text)


def _operand(side: str, gate: str) -> Operand:
    constant = _CONSTANT.match(side)
    if constant:
        return Operand(None, None, offset=float(constant["constant"]))
    match = _SIDE.match(side)
    if not match:
        message = f"`{side.strip()}` in `{gate}` is no measure"
        raise GateSyntaxError(message, "TASK, STAGE.TASK, a number, or 1.05 * STAGE")
    stage, dot, measure = match["word"].partition(".")
    offset = float((match["offset"] or "0").replace(" ", ""))
    factor = float(match["factor"] or 1)
    if not dot:
        return Operand(None, stage, factor, offset)
    return Operand(stage, measure, factor, offset)


def resolve_gate(gate: Gate, stages: Iterable[str], tasks: Iterable[str]) -> Gate:
    """The gate with every measure's full name.

    `stages` and `tasks` are the known names; a task may be called by its last part where that is
    unique. Raises GateSyntaxError for names that mean nothing, with the nearest that does.
    """
    stages, tasks = list(stages), list(tasks)
    left, right = gate.left, gate.right
    left = replace(left, measure=full_task(left.measure or "", gate.text, tasks))
    if right.measure is not None:
        if right.stage is None and right.measure in stages:  # `1.05 * base`: of the same measure
            right = replace(right, stage=right.measure, measure=left.measure)
        right = replace(right, measure=full_task(right.measure or "", gate.text, tasks))
    for operand in (left, right):
        if operand.stage is not None and operand.stage not in stages:
            near = closest(operand.stage, stages)
            help = f"did you mean `{near}`?" if near else f"stages: {', '.join(stages)}"
            raise GateSyntaxError(f"no stage `{operand.stage}` in `{gate.text}`", help)
    return replace(gate, left=left, right=right)


def full_task(word: str, gate: str, tasks: list[str]) -> str:
    """The measure meant by a word: its full name, or its last part where that is unique.

    Raises GateSyntaxError with the nearest name, or with the ones that it could mean.
    """
    if not tasks:
        message = f"`{gate}`: no suite is asked of this stage, so nothing is measured"
        raise GateSyntaxError(message, "suites: {abilities: {gain: [...], when: every_model}}")
    known = list(dict.fromkeys([*tasks, *POINTS]))
    if word in known:
        return word
    ending = [task for task in known if task.rpartition("/")[2] == word]
    if len(ending) == 1:
        return ending[0]
    if ending:
        raise GateSyntaxError(
            f"`{word}` in `{gate}` could be {' or '.join(ending)}", "write it out"
        )
    short = [task.rpartition("/")[2] for task in known]
    near = closest(word, [*known, *short])
    help = f"did you mean `{near}`?" if near else f"measures: {', '.join(known)}"
    raise GateSyntaxError(f"no measure `{word}` in `{gate}`", help)


def evaluate_gate(
    gate: Gate, measurements: Mapping[str, Mapping[str, Interval]], here: str
) -> GateResult:
    """Whether the gate holds, given 95 % intervals by stage and measure (shares 0..1).

    The difference of two measured values is uncertain by the root of the sum of the squares of
    their uncertainties, each taken on the side that faces the other (Newcombe 1998, method 10). A
    difference smaller than that is `undecided`; so is a measure that was not taken. `here` is the
    stage that the gate stands on.
    """
    taken = dict.fromkeys(task for measured in measurements.values() for task in measured)
    try:
        gate = resolve_gate(gate, {**measurements, here: {}}, taken)
    except GateSyntaxError as error:
        return GateResult("undecided", f"{gate.text}: was not measured ({error})")
    left = _measured(gate.left, measurements, here)
    right = _measured(gate.right, measurements, here)
    for operand, value in ((gate.left, left), (gate.right, right)):
        if value is None:
            return GateResult("undecided", f"{gate.text}: {operand.text} was not measured")
    assert left is not None and right is not None
    upward = gate.comparison.startswith(">")
    greater, smaller = (left, right) if upward else (right, left)
    difference = greater.value - smaller.value
    down = math.hypot(greater.value - greater.low, smaller.high - smaller.value)
    up = math.hypot(greater.high - greater.value, smaller.value - smaller.low)
    verdict: Verdict = "undecided"
    if down == up == 0:
        holds = difference > 0 or (difference == 0 and gate.comparison.endswith("="))
        verdict = "pass" if holds else "fail"
    elif difference - down > 0:
        verdict = "pass"
    elif difference + up < 0:
        verdict = "fail"
    sides = [
        f"{operand.text} {_show(operand, value)}".strip()
        for operand, value in ((gate.left, left), (gate.right, right))
    ]
    return GateResult(verdict, f"{sides[0]} {gate.comparison} {sides[1]}: {verdict}")


def _measured(
    operand: Operand, measurements: Mapping[str, Mapping[str, Interval]], here: str
) -> Interval | None:
    """One side in points or perplexity, scaled; None where it was not measured."""
    if operand.measure is None:
        return Interval(operand.offset, operand.offset, operand.offset)
    interval = measurements.get(operand.stage or here, {}).get(operand.measure)
    if interval is None:
        return None
    scale = operand.factor * (1.0 if is_perplexity(operand.measure) else 100.0)
    low, value, high = (
        scale * each + operand.offset for each in (interval.low, interval.value, interval.high)
    )
    return Interval(value, low, high)


def is_perplexity(task: str) -> bool:
    """Whether a measure is a perplexity, which is compared as it is and not in points."""
    return task.startswith("perplexity/")


def _show(operand: Operand, interval: Interval) -> str:
    if operand.measure is None:
        return ""
    digits = 2 if is_perplexity(operand.measure) else 1
    half = (interval.high - interval.low) / 2
    return f"({interval.value:.{digits}f} ± {half:.{digits}f})"
