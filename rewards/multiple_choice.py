"""Multiple choice (AQuA: Ling et al. 2017, arXiv 1705.04146; MMLU and others): 1 or 0.

Reads the letter in the row's `answer` (AQuA: `answer_column: correct`). The answer's letter is the
only one of its last line, else the last that it names as its answer (`Answer: B`, `the answer is
(B)`, `\\boxed{B}`), else the only one of its first line, else the last in brackets, else the last
that stands alone; a lower-case letter counts where it is the whole answer. A letter in a list of
several (`A, B or C`, `A + B`) is no answer, nor one that is ruled out (`not B`), nor is the last of
all options named one after another. Where no letter is named and the row has `options`, the option
whose text is the answer counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from posttrain.config.strict import StrictModel
from posttrain.errors import RewardBroken
from posttrain.reward.columns import text_of
from posttrain.reward.protocol import Example
from posttrain.reward.verdict import verdict
from posttrain.types import Score

_TAIL = 4_000
_JOINING = "or|and|then|also|plus|maybe|possibly|perhaps|even"
_RULED_OUT = re.compile(
    r"(?i:\b(?:not|isn't|never|nor|cannot be|can't be|rules? out|ruled out|eliminates?|excludes?)"
    r"(?: (?:answer|option|choice))?)[\s*_(\[$]*$"
)


class Config(StrictModel):
    """Which letters there are and where the row says which is right."""

    letters: str = Field(default="ABCDE", pattern="^[A-Z]{2,26}$")
    """The options' letters."""
    answer_column: str = "answer"
    """The row's column that holds the right letter."""
    options_column: str = "options"
    """The row's column with the options' texts, in order; it may be missing."""


def score(row: Mapping[str, Any], completion: str, config: Config) -> Score:
    """1.0 or 0.0. Raises RewardBroken for a row without one of the letters."""
    truth = text_of(row, config.answer_column).strip().strip("().").upper()
    if len(truth) != 1 or truth not in config.letters:
        raise RewardBroken(f"the row's `{config.answer_column}` is {truth!r:.40}, no option letter")
    tail = completion[-_TAIL:]
    found = chosen_letter(tail, config.letters)
    if found is None and not re.search(_alone(config.letters), tail):
        found = _letter_of_text(tail, row.get(config.options_column), config.letters)
    return verdict(found == truth, truth, found)


def chosen_letter(text: str, letters: str) -> str | None:
    """The letter that a text settles on; None where it names none or several."""
    whole = re.fullmatch(rf"[\s*_(]*([{letters.lower()}])[\s*_).]*", text)
    if whole:
        return whole[1].upper()
    alone = _alone(letters)
    first_line = re.compile(rf"\A[\s*_(]*([{letters}])[\s*_).:]*\n")
    named = re.compile(
        rf"(?:\b(?i:answer|ans|correct option|correct choice)\b[\s*_]*(?:is|was|[:=-])?[\s*_:]*"
        rf"(?:(?i:option|choice)\s+)?|\\boxed\{{\s*(?:\\text\{{)?)[\s*_(\[$]*({alone})"
    )
    last_line = re.compile(rf"(?:\A|\n)[\s*_(]*([{letters}])[\s*_).]*\Z")
    bracketed = re.compile(rf"(?<!\w)\((?i:([{letters}]))\)|(?<![\w(])([{letters}])\)")
    for pattern in (last_line, named, first_line, bracketed, re.compile(f"({alone})")):
        matches = [
            each
            for each in pattern.finditer(text)
            if not _is_ruled_out(text, each.start(each.lastindex or 0))
        ]
        if matches:
            group = matches[-1].lastindex or 0
            chosen = [match.group(match.lastindex or 0).upper() for match in matches]
            if _is_every_option(chosen, letters) or _is_listed(
                text, matches[-1].start(group), letters
            ):
                return None
            return chosen[-1]
    return None


def _alone(letters: str) -> str:
    """A letter that is no part of a word, nor the article of one (`A train`)."""
    return rf"(?<![\w'])(?!A\s+(?!is\b|or\b|and\b)[a-z])[{letters}](?![\w'])"


def _is_ruled_out(text: str, at: int) -> bool:
    """Whether the words right before a letter take it back: `not B`."""
    return _RULED_OUT.search(text[max(at - 40, 0) : at]) is not None


def _is_every_option(chosen: list[str], letters: str) -> bool:
    """Whether the last ones are all there are, each once: then the last is no choice."""
    last = chosen[-len(letters) :]
    return len(letters) == len(last) == len(set(last))


def _is_listed(text: str, at: int, letters: str) -> bool:
    """Whether the letter at `at` is one of several joined by commas, `or`, blanks and the like."""
    listed = re.compile(
        rf"(?<![\w'])[{letters}](?:(?:[\s()\[\]*,/&|;.:+\u2013\u2014-]|\b(?:{_JOINING})\b)+[{letters}]"
        rf"(?![\w'])(?! +(?!(?:{_JOINING})\b)[a-z]))+"
    )
    for match in listed.finditer(text):
        if match.start() <= at < match.end():
            return len(set(re.findall(rf"(?<!\w)[{letters}](?!\w)", match.group()))) > 1
    return False


def _letter_of_text(text: str, options: object, letters: str) -> str | None:
    """The letter of the only option whose text is the answer's last line, or ends it."""
    if not isinstance(options, (list, tuple)) or not text.strip():
        return None
    said = text.strip().splitlines()[-1]
    said = re.split(r"(?i:answer(?: is)?[: ]*)", said)[-1].strip(" .*$").casefold()
    texts = [
        re.sub(r"^\(?[A-Z]\)\s*", "", str(option)).strip(" .").casefold() for option in options
    ]
    same = [letter for letter, each in zip(letters, texts, strict=False) if each and each == said]
    return same[0] if len(same) == 1 else None


def gold(config: Config) -> Sequence[Example]:
    first, last = config.letters[0], config.letters[-1]
    options = [f"{letter}){10 * place} m" for place, letter in enumerate(config.letters, 1)]
    right = {config.answer_column: last, config.options_column: options}
    return [
        Example(right, last),
        Example(right, f"({last})"),
        Example(right, f"{first} is too small, so it is {last}."),
        Example(right, f"Not ({first}). The answer is **{last}**. A train is fast."),
        Example({config.answer_column: first}, f"Answer: {first}) 10 m"),
        Example({config.answer_column: first}, rf"$\boxed{{\text{{{first}}}}}$"),
        Example({config.answer_column: first}, f"{first} is the correct answer"),
        Example(right, f"The answer is {10 * len(options)} m."),
        Example(right, f"{last}.\n{first} is far too small."),
        Example(right, last.lower()),
        Example(right, f"It cannot be {first}, and {first} is not right: {last}, not {first}"),
    ]


def bad(config: Config) -> Sequence[Example]:
    last = config.letters[-1]
    row = {config.answer_column: last}
    every = list(config.letters)
    return [
        Example(row, ""),
        Example(row, config.letters[0]),
        Example(row, config.letters),
        Example(row, ", ".join(every)),
        Example(row, " or ".join(every)),
        Example(row, f"The answer is {' '.join(every)}"),
        Example(row, "\n".join(f"{letter}) {letter}" for letter in every)),
        Example(row, "\n".join(f"Answer: {letter}" for letter in every)),
        Example({config.answer_column: config.letters[0]}, "Answer: " + "\n".join(every)),
        Example(row, f"The answer is {last}. No: the answer is {config.letters[0]}"),
        Example(row, f"{config.letters[0]} + {last}"),
        Example(row, f"{config.letters[0]} - {last}"),
        Example(row, f"{config.letters[0]}, or possibly {last}"),
        Example(row, f"{config.letters[0]} then {last}"),
        Example(row, f"It is not {last}"),
        Example(row, f"The answer is not {last}"),
        Example(row, "a word with many letters, e.g. EVERY one"),
    ]
