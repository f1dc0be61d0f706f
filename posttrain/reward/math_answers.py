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
_HEDGES = {"or", "and", "not", "to", "nor", "but", "if", "maybe", "perhaps", "possibly", "probably"}
_IN_WORDS = {"zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"}
_NO_UNITS = _HEDGES | _IN_WORDS | {"i", "e", "about", "approximately", "eleven", "twelve"}
_THOUSANDS = re.compile(r"(?<=\d)\s+(?=\d{3}(?!\d))", re.ASCII)
_BLANKS = re.compile(r"(?<!\d)\s+|\s+(?!\d)", re.ASCII)  # `1 2` is not 12
_PHRASE = re.compile(r"answer\s*(?:is\b|:|=)[\s*:]*([^\n]+)", re.I)
_NEAR = 0.05


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
    text = _without_approximation(answer.strip().replace("\n", " "))
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
    text = _BLANKS.sub("", _THOUSANDS.sub("", text))
    text = re.sub(r"_\{(\w)\}", r"_\1", text)
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


def name_of(answer: str) -> str | None:
    """What the answer is said to be: `x` of `x = 5`; None where it is not named."""
    named = _NAMED.match(answer.strip(" $\n"))
    return named.group().partition("=")[0].strip() if named else None


def phrased(solution: str) -> str | None:
    """What the last line that speaks of the answer gives: `5` of `The answer is **5**.`"""
    found = _PHRASE.findall(solution[-2 * MOST_CHARACTERS :])
    if not found:
        return None
    formula = last_formula(found[-1])
    return formula if formula is not None else found[-1].strip(" .*")


def _without_approximation(text: str) -> str:
    """`\\frac{1}{3} \\approx 0.33` as `\\frac{1}{3}`; whole where the two are not near."""
    exact, sign, near = text.partition(r"\approx")
    if not sign or not exact.strip():
        return text
    one, other = number_of(normalised(exact)), number_of(normalised(near))
    differ = one is not None and other is not None and abs(one - other) > _NEAR * abs(one)
    return text if differ else exact


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
