"""Sums that a model writes: found in its answer, worked out exactly, with the numbers they use.

Only whole numbers, + - * / and brackets; fractions are exact. Nothing is evaluated by Python: the
text is parsed into a tree whose nodes are looked at one by one, and powers are no part of it, so
that no short text stands for a long computation.
"""

from __future__ import annotations

import ast
import re
from fractions import Fraction
from typing import NamedTuple

from posttrain.reward.answers import last_tagged
from posttrain.reward.verdict import shown, wrong
from posttrain.types import Score

MOST_CHARACTERS = 300
"""Longer expressions are nobody's solution."""

_TAIL = 4_000
_DEEPEST = 40
_SIGNS = str.maketrans(
    {"×": "*", "·": "*", "∙": "*", "÷": "/", "\u2212": "-", "–": "-", "[": "(", "]": ")"}
)
_LATEX = {r"\times": "*", r"\cdot": "*", r"\div": "/", r"\left": "", r"\right": ""}
_UNEQUAL = re.compile(r"!=|=/=|\\neq?(?![A-Za-z])")
_LISTED = re.compile(r"\s*\d+[.)]\s+(?=[\d(])", re.ASCII)
_RUN = re.compile(r"[\d(+\-*/). \t]+", re.ASCII)
_EQUATION = re.compile(r"[\d(+\-*/). \t=]+", re.ASCII)
_OPERATION = re.compile(r"[\d)]\s*[+\-*/]\s*[\d(-]", re.ASCII)


class Worked(NamedTuple):
    """An expression's value and the numbers that stand in it, in order."""

    value: Fraction
    numbers: tuple[int, ...]


def work_out(text: str) -> Worked | None:
    """`(7 - 3) * 6` as 24 with the numbers 7, 3 and 6; None for anything but such an expression.

    Also None where it divides by zero, is too long, or is nested too deeply.
    """
    bare = text.strip()
    if len(bare) > MOST_CHARACTERS or _depth(bare) > _DEEPEST or not _RUN.fullmatch(bare):
        return None
    numbers: list[int] = []
    try:
        tree = ast.parse(bare, mode="eval")
        return Worked(_value(tree.body, numbers), tuple(numbers))
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def find_expression(completion: str) -> str | None:
    """The expression that an answer comes down to; None where there is none.

    What the last `<answer>…</answer>` holds, else the last one in the last line that has any. Of an
    equation it is the first side that computes something: `6 * 4` of `24 = 6 * 4 = 8 * 3`.
    """
    equation = _find_equation(completion)
    return None if equation is None else _computed(equation)


def _find_equation(completion: str) -> str | None:
    """The expression with all that it is said to be equal to; None where it is said to differ."""
    tagged = last_tagged(completion)
    lines = completion[-_TAIL:].splitlines() if tagged is None else [" ".join(tagged.split())]
    for line in reversed(lines):
        plain = _plain(line[-_TAIL:])
        listed = _LISTED.match(plain)
        runs = _EQUATION.finditer(plain, listed.end() if listed else 0)
        found = [run for run in runs if _OPERATION.search(run.group())]
        if tagged is not None and len(found) > 1:
            return None  # several expressions inside the tags: which one is meant is not said
        if found:
            last = found[-1]
            differs = "≠" in (
                plain[last.end() : last.end() + 1],
                plain[last.start() - 1 : last.start()],
            )
            return None if differs else last.group()
    return None


def _computed(equation: str) -> str:
    return next(_trimmed(side) for side in equation.split("=") if _OPERATION.search(side))


def judge(completion: str, numbers: list[int], target: int) -> Score:
    """1.0 where the answer's expression makes `target` out of each of `numbers` exactly once."""
    equation = _find_equation(completion)
    if equation is None:
        return wrong(f"expected an expression that makes {target}, found none")
    expression = _computed(equation)
    worked = work_out(expression)
    if worked is None:
        return wrong(f"{shown(expression)} cannot be worked out")
    if sorted(worked.numbers) != sorted(numbers):
        used = ", ".join(map(str, worked.numbers))
        return wrong(f"expected the numbers {', '.join(map(str, numbers))}, found {shown(used)}")
    if worked.value != target:
        return wrong(f"expected {target}, found {shown(worked.value)}")
    for side in equation.split("="):
        said = work_out(_trimmed(side))
        if said is not None and said.value != target:
            return wrong(f"{shown(expression)} is {target}, said to be {shown(said.value)}")
    return Score(1.0, passed=True)


def _value(node: ast.AST, numbers: list[int]) -> Fraction:
    """The node's value; its numbers are appended. Raises ValueError for what is no arithmetic."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        numbers.append(node.value)
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, numbers)
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, numbers), _value(node.right, numbers)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        if isinstance(node.op, ast.Mult):
            return left * right
        if isinstance(node.op, ast.Div):
            return left / right
    raise ValueError("not arithmetic")


def _plain(text: str) -> str:
    """Other people's signs as Python's; what is no part of an expression stays and parts them."""
    for name, sign in _LATEX.items():
        text = text.replace(name, sign)
    text = _UNEQUAL.sub("≠", text)
    return re.sub(r"(?<=[\d)]) ?[xX] ?(?=[\d(])", "*", text.translate(_SIGNS))


def _trimmed(run: str) -> str:
    """A run of signs without what belongs to the sentence around it: `(6 * 4).` is `(6 * 4)`."""
    bare = run.strip().rstrip(".").strip()
    bare = bare.removeprefix("- ").lstrip("+*/.) ")
    while bare.endswith("(") or (bare.endswith(")") and bare.count(")") > bare.count("(")):
        bare = bare[:-1].rstrip()
    while bare.startswith("(") and bare.count("(") > bare.count(")"):
        bare = bare[1:].lstrip()
    return bare


def _depth(text: str) -> int:
    """How deeply its brackets nest, or how many signs stand before a number: what parsing costs."""
    depth = deepest = signs = 0
    for character in text:
        depth += (character == "(") - (character == ")")
        signs = signs + 1 if character == "-" else 0
        deepest = max(deepest, depth, signs)
    return deepest
