r"""Whether two LaTeX answers mean the same, by math-verify and sympy; what is too much is refused.

Slow (milliseconds), and sympy may take forever: rewards run in processes that can be killed, and
here nothing is started whose size is out of all proportion to its text, such as `9^{9^9}`.
math-verify's own time limits are switched off: they use the alarm signal, and that is the reward
process' own. Its import takes a second or two: `load` before the first answer, whose time limit is
not meant for it.
"""

from __future__ import annotations

import logging
import math
import re
from functools import cache
from typing import Any

MOST_CHARACTERS = 300
_DEEPEST = 20
_HIGHEST_POWER = 10_000
_MOST_TERMS = 500
_DIGITS = 12  # after the point; at six, five and a millionth would be five
_POWER = re.compile(r"(.?)\s*(?:\^|\*\*)\s*(\{[^{}]*\}|\S)")
_LONG_DIGITS = re.compile(r"\d{51}", re.ASCII)
_LARGE_FACTORIAL = re.compile(r"\d{4}\s*!|!\s*!|[)}\]]\s*!", re.ASCII)
_LARGE_CHOICE = re.compile(r"\\[dt]?binom\D{0,5}\d{5}|\\(?:sum|prod|int|lim)(?![A-Za-z])", re.ASCII)
_WORD = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{4}")
_TEXT = re.compile(r"\\(?:text|mbox|boxed|fbox)|\b(?:and|or|not|to)\b")
_APART = re.compile(r"\d\s+\d|\\(?:[pb]?mod|equiv|approx)(?![A-Za-z])", re.ASCII)
_BASE = re.compile(r"\d\s*_\s*\{?\s*\d", re.ASCII)
_ENDLESS = re.compile(r"\\infty\s*[+\-*/^\d]|[+*/\d]\s*\\infty|\d\s*-\s*\\infty", re.ASCII)
_DECIMAL = re.compile(r"-?\d*\.\d+", re.ASCII)
_NAME = re.compile(r"\\[A-Za-z]+|\{[a-z]?(?:matrix|array|cases|aligned)\}")


@cache
def load() -> tuple[Any, Any, Any]:
    """math-verify's parse and verify, and how its parse is told to read a text as LaTeX."""
    from math_verify import LatexExtractionConfig, parse, verify

    # It warns of time limits that are switched off.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    return parse, verify, [LatexExtractionConfig(boxed_match_priority=-1)]


def is_tame(latex: str) -> bool:
    """Whether working it out is in proportion to its length: a guard, not a proof."""
    if len(latex) > MOST_CHARACTERS or _LONG_DIGITS.search(latex) or _depth(latex) > _DEEPEST:
        return False
    if _LARGE_FACTORIAL.search(latex) or _LARGE_CHOICE.search(latex):
        return False
    product = 1
    end = -1
    for power in _POWER.finditer(latex):
        exponent = power[2]
        if power.start() <= end or exponent in "{(" or "^" in exponent or "*" in exponent:
            return False  # a power of a power
        end = power.end()
        highest = max((int(digits) for digits in re.findall(r"\d+", exponent)), default=1)
        if power[1] in (")", "}", "]"):
            product *= max(highest, 1)
        if "!" in exponent or highest > _HIGHEST_POWER or product > _HIGHEST_POWER:
            return False
    summands = 1 + latex.count("+") + latex.count("-")
    return math.comb(product + summands - 1, summands - 1) <= _MOST_TERMS  # once multiplied out


def is_prose(latex: str) -> bool:
    """Whether it holds words: read as LaTeX, they would be products of letters, or left out."""
    return _TEXT.search(latex) is not None or _WORD.search(_NAME.sub(" ", latex)) is not None


def is_misread(truth: str, answer: str) -> bool:
    r"""Whether one of them is read as something that it does not say: two numbers side by side as
    one, `5 \mod 7` as 5, numbers of two bases as those of one, endless sums as endless. Nor is a
    decimal number the same as an expression that is none: 3.14159265 is near to pi.
    """
    either = f"{truth} ; {answer}"
    if _APART.search(either) or _ENDLESS.search(either):
        return True
    if _BASE.search(truth) and _BASE.search(answer):
        return True
    decimals = [_DECIMAL.fullmatch(text.strip()) is not None for text in (truth, answer)]
    return any(decimals) and "." not in (answer if decimals[0] else truth)


def same_expression(truth: str, answer: str) -> bool:
    r"""Whether both are formulas of one meaning: `x+1` and `1+x`, `\sqrt{8}` and `2\sqrt{2}`."""
    for text in (truth, answer):
        if not text or not is_tame(text) or is_prose(text):
            return False
    if is_misread(truth, answer):
        return False
    parse, verify, as_latex = load()
    expected, found = (
        parse(f"${text}$", as_latex, fallback_mode="no_fallback", parsing_timeout=None)
        for text in (truth, answer)
    )
    return bool(verify(expected, found, float_rounding=_DIGITS, timeout_seconds=None))


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character in "{([") - (character in "})]")
        deepest = max(deepest, depth)
    return deepest
