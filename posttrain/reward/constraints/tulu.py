"""Tülu 3's 25 constraints for training (arXiv 2411.15124, section on RLVR), by its own rules.

They are IFEval's kinds with other rules: exactly N where the benchmark says at least, "around N",
keywords within longer words, case that counts. A row names one by `func_name`. The answer is
stripped before; three slips of the published code are not repeated: a check that was always true
(placeholders), one that asked whether the answer is in an option (choice), and a row that was
changed by being read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from posttrain.reward.constraints import ifeval, texts


def keywords(text: str, *, keyword_list: Sequence[str]) -> bool:
    """All keywords occur, in any case, also within longer words."""
    return ifeval.keywords_existence(text, keywords=keyword_list)


def keyword_frequency(text: str, *, word: str, N: int) -> bool:
    """A word stands by itself exactly N times, in any case."""
    wanted = word.lower()
    return sum(each[0] == wanted for each in re.finditer(r"\w+", text.lower())) == N


def forbidden_words(text: str, *, forbidden_words: Sequence[str]) -> bool:
    """No forbidden word occurs, not within a longer word either."""
    lower = text.lower()
    return not any(word.lower() in lower for word in forbidden_words)


def letter_frequency(text: str, *, letter: str, N: int) -> bool:
    """A letter occurs exactly N times; capital and small ones are two."""
    return text.count(letter) == N


def paragraph_count(text: str, *, N: int) -> bool:
    """Exactly N paragraphs between `* * *`, none of them empty."""
    parts = "\n".join(line.strip() for line in text.splitlines()).split("* * *")
    return len(parts) == N and all(part.strip() for part in parts)


def word_constraint(text: str, *, N: int, quantifier: str) -> bool:
    """N words between white space; around N is N ± 10 %, and one at least."""
    return _holds(len(text.split()), quantifier, N, slack=max(round(N * 0.1), 1))


def sentence_constraint(text: str, *, N: int, quantifier: str) -> bool:
    """N sentences; around N is N ± 1."""
    return _holds(_num_sentences(text), quantifier, N, slack=1)


def paragraphs(text: str, *, N: int, first_word: str, i: int) -> bool:
    """Exactly N paragraphs between blank lines; the i-th, from 1, begins with a word."""
    parts = text.split("\n\n")
    return len(parts) == N and 0 < i <= N and parts[i - 1].strip().startswith(first_word)


def postscript(text: str, *, postscript_marker: str) -> bool:
    """A postscript's marker occurs and something follows it."""
    return bool(text.partition(postscript_marker)[2].strip())


def placeholders(text: str, *, N: int) -> bool:
    """At least N placeholders such as `[address]`."""
    return texts.num_placeholders(text) >= N


def bullet_points(text: str, *, N: int) -> bool:
    """Exactly N lines that begin with `*` or `-`."""
    return sum(line.strip().startswith(("*", "-")) for line in text.split("\n")) == N


def title(text: str) -> bool:
    """A title `<<like this>>`."""
    return texts.has_title(text, may_be_empty=True)


def choice(text: str, *, options: Sequence[str]) -> bool:
    """One of the options occurs in the answer."""
    return any(option in text for option in options)


def highlighted_sections(text: str, *, N: int) -> bool:
    """At least N spans `*...*` within a line; the marks of `**bold**` count as two."""
    return sum(line.count("*") // 2 for line in text.split("\n")) >= N


def sections(text: str, *, N: int, section_splitter: str) -> bool:
    """Cut at every splitter, exactly N pieces; an empty one at the front is not counted."""
    parts = text.split(section_splitter)
    return len(parts) - (not parts[0].strip()) == N


def repeat_prompt(text: str, *, original_prompt: str) -> bool:
    """The answer begins with the request, letter by letter."""
    return text.startswith(original_prompt.strip())


def two_responses(text: str) -> bool:
    """Two different answers around the only `******`."""
    parts = [part.strip() for part in text.split("******")]
    return len(parts) == 2 and parts[0] != parts[1]


def uppercase(text: str) -> bool:
    """No small letter."""
    return text == text.upper()


def lowercase(text: str) -> bool:
    """No capital letter."""
    return text == text.lower()


def frequency_capital_words(text: str, *, N: int, quantifier: str) -> bool:
    """N words of the capitals A to Z, a lone `I` too; around N is exactly N."""
    count = sum(1 for _ in re.finditer(r"\b[A-Z]+\b", text))
    return _holds(count, quantifier, N, slack=0)


def end(text: str, *, end_phrase: str) -> bool:
    """The answer ends with a phrase, letter by letter."""
    return text.endswith(end_phrase.strip())


def quotation(text: str) -> bool:
    """Straight double quotation marks around the whole; one alone is not two."""
    return ifeval.quotation(text)


def _holds(count: int, quantifier: str, threshold: int, *, slack: int) -> bool:
    if quantifier == "around":
        return abs(count - threshold) <= slack
    return count <= threshold if quantifier == "at most" else count >= threshold


def _num_sentences(text: str) -> int:
    """1 and every white space after `.` or `?`, but for those of `e.g.` and of `Mr.`"""
    count = 1
    for space in re.finditer(r"(?<=[.?])\s", text):
        count += not _is_short(text[max(0, space.start() - 4) : space.start()])
    return count


def _is_short(before: str) -> bool:
    """Whether the four characters up to an end mark are as in `e.g.`, or the last as in `Mr.`"""
    mark = before[-1]
    if len(before) == 4 and before[1] == "." and _is_word(before[0]) and _is_word(before[2]):
        return True
    return mark == "." and len(before) > 2 and "A" <= before[-3] <= "Z" and "a" <= before[-2] <= "z"


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


CHECKS: Mapping[str, tuple[str, Callable[..., bool]]] = {
    "verify_keywords": ("keywords:existence", keywords),
    "verify_keyword_frequency": ("keywords:frequency", keyword_frequency),
    "validate_forbidden_words": ("keywords:forbidden_words", forbidden_words),
    "verify_letter_frequency": ("keywords:letter_frequency", letter_frequency),
    "validate_response_language": ("language:response_language", ifeval.response_language),
    "verify_paragraph_count": ("length_constraints:number_paragraphs", paragraph_count),
    "validate_word_constraint": ("length_constraints:number_words", word_constraint),
    "verify_sentence_constraint": ("length_constraints:number_sentences", sentence_constraint),
    "validate_paragraphs": ("length_constraints:nth_paragraph_first_word", paragraphs),
    "verify_postscript": ("detectable_content:postscript", postscript),
    "validate_placeholders": ("detectable_content:number_placeholders", placeholders),
    "verify_bullet_points": ("detectable_format:number_bullet_lists", bullet_points),
    "validate_title": ("detectable_format:title", title),
    "validate_choice": ("detectable_format:constrained_response", choice),
    "validate_highlighted_sections": (
        "detectable_format:number_highlighted_sections",
        highlighted_sections,
    ),
    "validate_sections": ("detectable_format:multiple_sections", sections),
    "validate_json_format": ("detectable_format:json_format", texts.is_json),
    "validate_repeat_prompt": ("combination:repeat_prompt", repeat_prompt),
    "validate_two_responses": ("combination:two_responses", two_responses),
    "validate_uppercase": ("change_case:english_capital", uppercase),
    "validate_lowercase": ("change_case:english_lowercase", lowercase),
    "validate_frequency_capital_words": (
        "change_case:capital_word_frequency",
        frequency_capital_words,
    ),
    "validate_end": ("startend:end_checker", end),
    "validate_quotation": ("startend:quotation", quotation),
    "validate_no_commas": ("punctuation:no_comma", ifeval.no_comma),
}
"""The IFEval id and the check of each `func_name`."""
