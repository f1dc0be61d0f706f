r"""Answers in LaTeX: found in a solution, brought into one form, compared as strings and numbers.

The form follows the normalisation of Hendrycks et al. 2021 (MATH, arXiv 2103.03874, appendix):
blanks, `\left` and `\right`, units, degrees, money and per cent are dropped, `\frac12`, `\sqrt2`
and `.5` spelt out. Ours is stricter where theirs can be tricked: a text after a number is a unit
only if it offers no second answer, so `5\text{ or }6` is not 5.
"""

from __future__ import annotations

import re
from fractions import Fraction

from posttrain.reward.answers import as_number

MOST_CHARACTERS = 1_000
"""Of a longer answer nothing is compared: the longest in MATH has 159 characters."""

_BOXES = (r"\boxed", r"\fbox")
_SAID = "final answer is"
_HOPED = "i hope it is correct"
_UNIT = re.compile(
    r"\\(?:text|mbox|textrm|mathrm|textnormal)\{\s*([A-Za-z./\s-]*)\}(?:\^\{?\d\}?)?$"
)
_TEXT = re.compile(r"\\(?:text|mbox|textrm|mathrm|textnormal|textbf|mathbf|textit)\{([^{}]*)\}")
_JOINED = re.compile(r"\\(?:text|mbox|textrm|mathrm|textnormal)\{ *,? *(?:and|or) *\}")
_SIZES = re.compile(r"\\(?:left|right|[bB]igg?[lr]?|displaystyle)(?![A-Za-z])|\\!")
_SPACES = re.compile(r"(?<!\\)\\(?:[,;:> ]|q?quad(?![A-Za-z])|thinspace(?![A-Za-z]))|~")
_DEGREES = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\\degrees?(?![A-Za-z])|°")
_FRAC = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_SHORT_FRAC = re.compile(r"\\frac *(\{[^{}]*\}|[0-9A-Za-z]) *(\{[^{}]*\}|[0-9A-Za-z])")
_SHORT_ROOT = re.compile(r"\\sqrt *([0-9A-Za-z])")
_NAMED = re.compile(r"^[A-Za-z]{1,2}(?:_\{?\w\}?)? *= *(?=[^=]+$)")
_NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"
_SLASHED = re.compile(rf"(-?){_NUMBER}/{_NUMBER}", re.ASCII)
_FRACTION = re.compile(rf"(-?)(\d*)\\frac\{{(-?){_NUMBER}\}}\{{{_NUMBER}\}}", re.ASCII)
_MOST_DIGITS = 60
_NO_UNITS = {"or", "and", "not", "to", "i", "e"}


def boxed(solution: str) -> str | None:
    r"""What stands in the last `\boxed{…}` (or `\fbox{…}`, `\boxed 2`); None without one.

    Braces are matched; a box that is not closed, or longer than any answer, is none.
    """
    start, name = max((solution.rfind(box), box) for box in _BOXES)
    if start < 0:
        return None
    after = solution[start + len(name) :][: MOST_CHARACTERS + 2]
    inside = after.lstrip()
    if inside.startswith("{"):
        return _braced(inside)
    word = re.match(r"[^\s$]+", inside)
    return word.group() if word and inside != after else None


def said(solution: str) -> str | None:
    """X of the last `Final Answer: The final answer is X. I hope it is correct.`; None without.

    The words that the four-shot prompt of Minerva (Lewkowycz et al. 2022, appendix D) teaches.
    """
    lowered = solution.lower() if solution.isascii() else _ascii_lower(solution)
    end = lowered.rfind(_HOPED)
    start = lowered.rfind(_SAID, 0, max(end, 0))
    if start < 0:
        return None
    answer = solution[start + len(_SAID) : end].strip()
    return answer.removesuffix(".").strip() if len(answer) <= MOST_CHARACTERS else None


def last_formula(solution: str) -> str | None:
    """What stands between the last two `$` (or `$$`) that are not escaped; None without them."""
    tail = solution[-2 * MOST_CHARACTERS :].replace(r"\$", "\0\0").replace("$$", " $")
    parts = tail.split("$")
    return parts[-2].replace("\0\0", r"\$").strip() if len(parts) >= 3 else None


def tidied(answer: str) -> str:
    """The answer without what says nothing: sizes, spaces, units, money, per cent, a last dot.

    Nor is there what it is about equal to. Blanks stay, so that it can be parsed still.
    """
    text = answer.strip().replace("\n", " ")
    text = text.split(r"\approx")[0] or text
    text = _SPACES.sub(" ", _SIZES.sub("", text)).replace("{,}", ",").strip()
    text = text.rstrip(".,;").rstrip()
    text = _DEGREES.sub("", text).replace(r"\%", "").replace("%", "")
    text = text.replace(r"\$", "").replace("$", "").strip()
    text = _without_unit(_JOINED.sub(", ", text))
    text = _FRAC.sub(r"\\frac", text)
    text = _SHORT_FRAC.sub(lambda found: _frac(found[1], found[2]), text)
    text = _SHORT_ROOT.sub(r"\\sqrt{\1}", text)
    text = re.sub(r"(?<![\d.])\.(?=\d)", "0.", text)
    return _NAMED.sub("", text).strip()


def normalised(answer: str) -> str:
    """The one form in which two answers are compared as strings.

    Example: `x = \\dfrac 12\\text{ cm}` is `\\frac{1}{2}`.
    """
    text = _TEXT.sub(r"\1", tidied(answer))
    text = re.sub(r"\s+", "", text)
    text = re.sub(r"^\(([A-Z])\)$", r"\1", text)
    simple = re.fullmatch(r"(-?)(\d+)/(\d+)", text, re.ASCII)
    return rf"{simple[1]}\frac{{{simple[2]}}}{{{simple[3]}}}" if simple else text


def number_of(answer: str) -> Fraction | None:
    r"""A normalised answer that is one number (`1,200`, `-0.5`, `\frac{3}{4}`, `2\frac{1}{2}`)."""
    if len(answer) > _MOST_DIGITS:
        return None
    decimal = as_number(answer)
    if decimal is not None:
        return Fraction(decimal)
    slashed = _SLASHED.fullmatch(answer)
    sign, whole, inner, over, under = "", "", "", "", ""
    if slashed:
        sign, over, under = slashed.groups()
    elif found := _FRACTION.fullmatch(answer):
        sign, whole, inner, over, under = found.groups()
    if not under or Fraction(under) == 0 or (whole and inner):
        return None
    value = int(whole or 0) + Fraction(over) / Fraction(under)
    return -value if (sign or inner) and not (sign and inner) else value


def _braced(text: str) -> str | None:
    """What the brace that `text` begins with encloses; None where it is not closed."""
    depth = 0
    for at, character in enumerate(text):
        if text[at - 1 : at] != "\\":
            depth += (character == "{") - (character == "}")
        if depth == 0:
            return text[1:at]
    return None


def _without_unit(text: str) -> str:
    """`5\\text{ cm}^2` as `5`; a text that stands alone, says `or`, or is `i`, is no unit."""
    unit = _UNIT.search(text)
    if not unit or not text[: unit.start()].strip() or _NO_UNITS & set(unit[1].split()):
        return text
    return text[: unit.start()].strip()


def _frac(over: str, under: str) -> str:
    return rf"\frac{{{over.strip('{}')}}}{{{under.strip('{}')}}}"


def _ascii_lower(text: str) -> str:
    """Lower case of the ASCII letters only: other letters may change their number."""
    return text.encode("utf-8", "surrogatepass").lower().decode("utf-8", "surrogatepass")
