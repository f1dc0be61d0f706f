"""What constraints count in a text: words, sentences, capital words, marks.

All of it takes time linear in the text, whatever the text: answers may be megabytes of one sign.

IFEval counts sentences with nltk's Punkt model and capital words with nltk's tokenizer. Both are
approximated here by rules, without nltk and its downloads: a sentence ends at `?`, `!` or `.`
before white space, line breaks alone end none, and after abbreviations, initials and numbers it
depends on the next word.
"""

from __future__ import annotations

import json
import re
from itertools import pairwise

_CLOSERS = "\"')]}»*_`\u2019\u201d"  # with the curly quotation marks
_OPENERS = "\"'([{«*_`-—–\u2018\u201c"

_ABBREVIATIONS = """
mr mrs ms dr prof sr jr st gen col capt lt sgt cmdr adm maj brig gov sen rep rev hon pres
messrs vs etc inc ltd co corp bros dept univ assn nos vol vols pp pg fig figs eds
approx jan feb mar apr jun jul aug sep sept oct nov dec tues thurs
ave blvd rd hwy mt ft cf viz ph.d b.sc m.sc
"""
# Words that begin a sentence so often that one begins even after an abbreviation.
_STARTERS = """
the a an this that these those there he she it we they you his her its our their my your in on
at as if when while after before since although however but and or so then for from with what
who why how where which is are was were do does did can could will would may some many most
all each both not no yes also
"""
_SHORT, _FIRST = frozenset(_ABBREVIATIONS.split()), frozenset(_STARTERS.split())

# Where nltk's tokenizer parts words: here, and at commas and colons before anything but a digit.
_SIGNS = r"\s;@#$%&?!()\[\]{}<>\"*„«»`…\u2013\u2014\u2018\u2019\u201c\u201d"
_PARTED = re.compile(rf"[{_SIGNS}]+|[,:](?!\d)|--+|\.\.+")
_SUFFIX = re.compile(r"(?:N'T|'S|'M|'D|'LL|'RE|'VE)$", re.IGNORECASE)
_TWO_WORDS = frozenset(["CANNOT", "GIMME", "GONNA", "GOTTA", "LEMME", "WANNA"])


def num_words(text: str) -> int:
    """Runs of letters, digits and `_`: `don't` is two, `well-known` is two, a lone dash is none."""
    return sum(1 for _ in re.finditer(r"\w+", text))


def num_sentences(text: str) -> int:
    """Sentences, as Punkt would mostly count them; a text without any end mark is one."""
    words = text.split()
    ends = sum(_ends(word, after) for word, after in pairwise(words))
    return ends + 1 if words else 0


def num_capital_words(text: str) -> int:
    """Words whose letters are all capital: `COVID-19`, the `I` of `I'm`; `DON'T` is two."""
    return sum(_num_capital(word) for word in _PARTED.split(text) if not word.islower())


def num_placeholders(text: str) -> int:
    """Spans `[...]` within a line, one after the other; `[]` is one as well."""
    return sum(_num_spans(line, "[", "]") for line in text.split("\n"))


def has_title(text: str, *, may_be_empty: bool) -> bool:
    """Whether some line holds `<<title>>`."""
    for line in text.split("\n"):
        start, end = line.find("<<"), line.rfind(">>")
        if start >= 0 and end >= start + 2 and (may_be_empty or _named(line[start : end + 2])):
            return True
    return False


def is_json(text: str) -> bool:
    """Whether the text is one JSON value. Nesting beyond Python's parser (about 1,000) is none."""
    try:
        json.loads(text, parse_int=str, parse_float=str)  # long digits cost nothing as text
    except (ValueError, RecursionError):
        return False
    return True


def holds_word(text: str, word: str) -> bool:
    """Whether a word or phrase stands in a text with no letter or digit right beside it."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None


def _named(title: str) -> bool:
    return bool(title.lstrip("<").rstrip(">").strip())


def _num_spans(line: str, opening: str, closing: str) -> int:
    count, at = 0, line.find(opening)
    while at >= 0:
        end = line.find(closing, at + 1)
        if end < 0:
            break
        count, at = count + 1, line.find(opening, end + 1)
    return count


def _num_capital(word: str) -> int:
    bare = word.rstrip(".")
    suffix = _SUFFIX.search(bare)
    parts = (bare[: suffix.start()], suffix[0]) if suffix else (bare,)
    return sum(part.isupper() for part in parts) + (bare in _TWO_WORDS)


def _ends(word: str, after: str) -> bool:
    """Whether a sentence ends with `word`, which white space and `after` follow."""
    core = word.rstrip(_CLOSERS)
    if core.endswith(("?", "!")):
        return True
    if not core.endswith("."):
        return False
    following = after.lstrip(_OPENERS)
    is_capital = following[:1].isupper()
    bare = core.rstrip(".").lstrip(_OPENERS).lower()
    if core.endswith(".."):
        return is_capital and _starts(following)
    if bare.isdecimal():
        return not following[:1].islower()
    if _is_abbreviation(bare):
        return is_capital and _starts(following)
    return True


def _is_abbreviation(bare: str) -> bool:
    last = bare.rpartition("-")[2]
    is_initials = all(len(part) == 1 and part.isalpha() for part in last.split("."))
    return is_initials or last in _SHORT


def _starts(word: str) -> bool:
    return (re.match(r"\w*", word) or [""])[0].lower() in _FIRST
