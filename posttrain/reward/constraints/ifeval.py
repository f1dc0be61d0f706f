"""IFEval's 25 constraints, by the rules of its authors' checker (Zhou et al. 2023, 2311.07911).

Each is a pure function of the answer and the instruction's own arguments. Where it differs from
that checker: words are taken as they are written, not as regular expressions; the same text is
always found to be in the same language, and one without any is in none, where the original lets it
pass; JSON may not nest beyond Python's parser; sentences and capital words are counted without nltk
(`posttrain.reward.constraints.texts`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from posttrain.reward.constraints import texts
from posttrain.reward.languages import language_of

ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
"""The options of every `constrained_response`."""

_FENCES = ("```json", "```Json", "```JSON", "```")


def keywords_existence(text: str, *, keywords: Sequence[str]) -> bool:
    """All keywords occur, in any case, also within longer words."""
    lower = text.lower()
    return all(keyword.lower() in lower for keyword in keywords)


def keyword_frequency(text: str, *, keyword: str, frequency: int, relation: str) -> bool:
    """A keyword occurs so often, in any case, also within longer words."""
    return _holds(text.lower().count(keyword.strip().lower()), relation, frequency)


def forbidden_words(text: str, *, forbidden_words: Sequence[str]) -> bool:
    """No forbidden word occurs as a word of its own; within a longer word it may."""
    return not any(texts.holds_word(text, word) for word in forbidden_words)


def letter_frequency(text: str, *, letter: str, let_frequency: int, let_relation: str) -> bool:
    """A letter occurs so often, in any case."""
    return _holds(text.lower().count(letter.lower()), let_relation, let_frequency)


def response_language(text: str, *, language: str) -> bool:
    """The answer is in a language, given as its code; `zh` is right for all of its kinds."""
    found = language_of(text)
    return found is not None and language in (found, found.partition("-")[0])


def number_paragraphs(text: str, *, num_paragraphs: int) -> bool:
    """So many paragraphs between `***`; the first and the last divider may stand at the ends."""
    parts = [part.strip() for part in text.split("***")]
    if not all(parts[1:-1]):
        return False
    return sum(map(bool, parts)) == num_paragraphs


def number_words(text: str, *, num_words: int, relation: str) -> bool:
    """So many words, as runs of letters and digits."""
    return _holds(texts.num_words(text), relation, num_words)


def number_sentences(text: str, *, num_sentences: int, relation: str) -> bool:
    """So many sentences."""
    return _holds(texts.num_sentences(text), relation, num_sentences)


def nth_paragraph_first_word(
    text: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str
) -> bool:
    """So many paragraphs between blank lines, and the n-th begins with a word, in any case.

    Empty paragraphs are not counted, yet the n-th is counted with them.
    """
    paragraphs = [paragraph.strip() for paragraph in text.split("\n\n")]
    if sum(map(bool, paragraphs)) != num_paragraphs or nth_paragraph > num_paragraphs:
        return False
    words = paragraphs[nth_paragraph - 1].split(maxsplit=1)
    first = words[0].lstrip("'").lstrip('"') if words else ""
    return re.split(r"[.,?!'\"]", first, maxsplit=1)[0].lower() == first_word.lower()


def postscript(text: str, *, postscript_marker: str) -> bool:
    """A postscript's marker occurs, in any case; `P. S.` is as good as `P.S.`"""
    marker = postscript_marker.strip().lower()
    dotted = [re.escape(part) for part in marker.split(".")]
    pattern = r"\.\s?".join(dotted).removesuffix(r"\s?")
    return re.search(pattern, text.lower()) is not None


def number_placeholders(text: str, *, num_placeholders: int) -> bool:
    """At least so many placeholders such as `[address]`."""
    return texts.num_placeholders(text) >= num_placeholders


def number_bullet_lists(text: str, *, num_bullets: int) -> bool:
    """Exactly so many lines that begin with `-`, or with one `*`; a rule `---` is one of them."""
    lines = [line.lstrip() for line in text.split("\n")]
    bullets = sum(each.startswith(("*", "-")) and not each.startswith("**") for each in lines)
    return bullets == num_bullets


def title(text: str) -> bool:
    """A title `<<like this>>` that is not empty."""
    return texts.has_title(text, may_be_empty=False)


def constrained_response(text: str) -> bool:
    """One of the three allowed answers occurs, letter by letter."""
    return any(answer in text for answer in ANSWERS)


def number_highlighted_sections(text: str, *, num_highlights: int) -> bool:
    """At least so many `*spans*` or `**spans**` within a line that are not empty."""
    single = re.findall(r"\*([^\n*]*)\*", text)
    double = re.findall(r"\*\*([^\n*]*)\*\*", text)
    return sum(bool(span.strip()) for span in (*single, *double)) >= num_highlights


def multiple_sections(text: str, *, section_spliter: str, num_sections: int) -> bool:
    """At least so many marks `SECTION 1`."""
    marks = re.findall(re.escape(section_spliter.strip()) + r"\s?\d+", text)
    return len(marks) >= num_sections


def json_format(text: str) -> bool:
    """The whole answer is JSON; a code fence around it may be."""
    bare = text.strip()
    for fence in _FENCES:
        bare = bare.removeprefix(fence)
    return texts.is_json(bare.removesuffix("```").strip())


def repeat_prompt(text: str, *, prompt_to_repeat: str) -> bool:
    """The answer begins with the request, in any case."""
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def two_responses(text: str) -> bool:
    """Two different answers with `******` between them, which may stand at the ends as well."""
    parts = [part.strip() for part in text.split("******")]
    given = [part for part in parts if part]
    return all(parts[1:-1]) and len(given) == 2 and given[0] != given[1]


def english_capital(text: str) -> bool:
    """English, with no small letter."""
    return text.isupper() and language_of(text) == "en"


def english_lowercase(text: str) -> bool:
    """English, with no capital letter."""
    return text.islower() and language_of(text) == "en"


def capital_word_frequency(text: str, *, capital_frequency: int, capital_relation: str) -> bool:
    """So many words in capital letters."""
    return _holds(texts.num_capital_words(text), capital_relation, capital_frequency)


def end_checker(text: str, *, end_phrase: str) -> bool:
    """The answer ends with a phrase, in any case; quotation marks may close it."""
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def quotation(text: str) -> bool:
    """Straight double quotation marks around the whole."""
    bare = text.strip()
    return len(bare) > 1 and bare.startswith('"') and bare.endswith('"')


def no_comma(text: str) -> bool:
    """No comma."""
    return "," not in text


def _holds(count: int, relation: str, threshold: int) -> bool:
    return count < threshold if relation == "less than" else count >= threshold


CHECKS: Mapping[str, Callable[..., bool]] = {
    "keywords:existence": keywords_existence,
    "keywords:frequency": keyword_frequency,
    "keywords:forbidden_words": forbidden_words,
    "keywords:letter_frequency": letter_frequency,
    "language:response_language": response_language,
    "length_constraints:number_paragraphs": number_paragraphs,
    "length_constraints:number_words": number_words,
    "length_constraints:number_sentences": number_sentences,
    "length_constraints:nth_paragraph_first_word": nth_paragraph_first_word,
    "detectable_content:postscript": postscript,
    "detectable_content:number_placeholders": number_placeholders,
    "detectable_format:number_bullet_lists": number_bullet_lists,
    "detectable_format:title": title,
    "detectable_format:constrained_response": constrained_response,
    "detectable_format:number_highlighted_sections": number_highlighted_sections,
    "detectable_format:multiple_sections": multiple_sections,
    "detectable_format:json_format": json_format,
    "combination:repeat_prompt": repeat_prompt,
    "combination:two_responses": two_responses,
    "change_case:english_capital": english_capital,
    "change_case:english_lowercase": english_lowercase,
    "change_case:capital_word_frequency": capital_word_frequency,
    "startend:end_checker": end_checker,
    "startend:quotation": quotation,
    "punctuation:no_comma": no_comma,
}
"""The check of each instruction, by its id in the benchmark."""
