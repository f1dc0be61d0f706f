r"""MATH (Hendrycks et al. 2021, arXiv 2103.03874): 1 where the final answer is equivalent, else 0.

Reads the row's `answer` (LaTeX); where the row has none, the last `\boxed{…}` of its `solution`.
A `<think>` section is taken off. The answer is looked for as Tülu 3 does it (Lambert et al. 2024,
arXiv 2411.15124, "flex"), equal as a normalised string, as a number, or as an expression
(math-verify). Tülu 3 takes an answer for right where its box or its closing words are; so do we:
one may be wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from posttrain.config.strict import StrictModel
from posttrain.errors import RewardBroken
from posttrain.reward.answers import last_tagged, without_thinking
from posttrain.reward.columns import text_of
from posttrain.reward.math_answers import (
    MOST_CHARACTERS,
    boxed,
    last_formula,
    name_of,
    normalised,
    number_of,
    phrased,
    said,
    tidied,
)
from posttrain.reward.protocol import Example
from posttrain.reward.symbolic import load, same_expression
from posttrain.reward.verdict import verdict, wrong
from posttrain.types import Score


class Config(StrictModel):
    """Where the answer has to stand."""

    mode: Literal["boxed", "minerva", "flexible"] = "flexible"
    r"""boxed: the last `\boxed{…}` only. minerva (strict): `Final Answer: The final answer is X. I
    hope it is correct.`, else the whole answer. flexible: either, else in `<answer>…</answer>`,
    else behind the last `answer is` or `answer:`, else between the last two `$`, else the whole
    answer."""


def score(row: Mapping[str, Any], completion: str, config: Config) -> Score:
    """1.0 or 0.0. Raises RewardBroken for a row without an answer to compare with."""
    truth = _truth(row)
    answers = _answers(without_thinking(completion), config.mode)
    if not answers:
        return wrong(f"expected {truth}, found no answer")
    right = any(is_equivalent(truth, answer) for answer in answers)
    return verdict(right, truth, answers[0])


def is_equivalent(truth: str, answer: str) -> bool:
    """Whether two answers in LaTeX are the same: as strings, else as numbers, else by sympy."""
    names = name_of(truth), name_of(answer)
    expected, found = normalised(truth), normalised(answer)
    if None not in names and names[0] != names[1]:
        return False
    if not expected or not found or expected == found:
        return expected == found != ""
    number, other = number_of(expected), number_of(found)
    if number is not None and other is not None:
        return number == other
    if "=" in answer and "=" not in truth:
        sides = [number_of(normalised(side)) for side in answer.split("=")]
        if any(side is not None and side != number for side in sides):
            return False  # `6 = 5`
    return same_expression(tidied(truth), tidied(answer))


def _truth(row: Mapping[str, Any]) -> str:
    if "answer" in row or "solution" not in row:
        truth = text_of(row, "answer")
    else:
        truth = boxed(text_of(row, "solution")) or ""
    if not normalised(truth[:MOST_CHARACTERS]):
        raise RewardBroken("the row's `solution` has no `\\boxed{…}` with an answer in it")
    return truth.strip()


def _answers(completion: str, mode: str) -> list[str]:
    """What may be meant as the final answer, the likeliest first."""
    found = [] if mode == "minerva" else [boxed(completion)]
    found += [] if mode == "boxed" else [said(completion)]
    if mode == "flexible" and not any(found):
        found = [last_tagged(completion) or phrased(completion) or last_formula(completion)]
    if mode != "boxed" and not any(found) and len(completion) <= MOST_CHARACTERS:
        found = [completion.strip(" \n*")]
    return [answer for answer in found if answer and answer.strip()]


_WAYS = {
    "boxed": r"Hence \boxed{%s}.",
    "minerva": "Final Answer: The final answer is %s. I hope it is correct.",
    "flexible": "So we find $x > 0$ and at last $%s$.",
}


def _said(mode: str, answer: str) -> str:
    return _WAYS[mode].replace("%s", answer)


def warm_up(config: Config) -> None:
    """sympy takes a second or two to load."""
    load()


def gold(config: Config) -> Sequence[Example]:
    pairs = [
        (r"\frac{1}{2}", r"\dfrac12"),
        (r"\frac{1}{2}", "0.5"),
        (r"\$18", "18.00"),
        (r"16\text{ inches}", "16"),
        ("10,\\!000", "10000"),
        (r"\left(3, \frac{\pi}{2}\right)", r"(3,\frac{\pi}{2})"),
        (r"x^2 + 33x - 33", "33x+x^2-33"),  # sympy from here on
        (r"2\sqrt{2}", r"\sqrt{8}"),
    ]
    rows = [Example({"answer": truth}, _said(config.mode, answer)) for truth, answer in pairs]
    return [*rows, Example({"solution": r"so \boxed{7}"}, _said(config.mode, "7"))]


def bad(config: Config) -> Sequence[Example]:
    everything = ",".join(map(str, range(101)))
    answers = ["6", "", everything, r"5\text{ or }6", r"5\text{ or six}", "9^{9^{9}}", "{" * 10_000]
    cheats = [Example({"answer": "5"}, _said(config.mode, answer)) for answer in answers]
    earlier = _said(config.mode, "5") + " No: " + _said(config.mode, "6")
    return [*cheats, Example({"answer": "5"}, earlier), Example({"answer": "5"}, "")]
