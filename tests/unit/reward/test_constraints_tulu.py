"""Tülu 3's training rules: exactly N, "around N", words within words, case that counts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.reward.constraints.rows import constraints_of
from posttrain.reward.constraints.tulu import CHECKS

WORDS = "validate_word_constraint"
SENTENCES = "verify_sentence_constraint"
CAPITALS = "validate_frequency_capital_words"

# (func_name, its settings, answers that follow it, answers that do not)
CASES = [
    ("verify_keywords", {"keyword_list": ["cat", "Dog"]}, ["CATALOGUE dogs"], ["a cat"]),
    (
        "verify_keyword_frequency",
        {"word": "Cat", "N": 2},
        ["cat, CAT; cats"],
        ["cat", "cat cat cat", "cat catcat"],
    ),
    ("validate_forbidden_words", {"forbidden_words": ["cat"]}, ["ca t"], ["Catalogue"]),
    ("verify_letter_frequency", {"letter": "a", "N": 2}, ["aAa"], ["aA", "aaa"]),
    (
        "validate_response_language",
        {"language": "de"},
        ["Das ist ein Satz über das Wetter."],
        ["This is a sentence about the weather.", "123"],
    ),
    (
        "verify_paragraph_count",
        {"N": 2},
        ["a\n* * *\nb", "a * * * b"],
        ["a\n***\nb", "a\n* * *", "* * *\na\n* * *\nb", "a\n* * *\n* * *\nb"],
    ),
    (WORDS, {"N": 50, "quantifier": "around"}, ["w " * 55, "w " * 45], ["w " * 56, "w " * 44]),
    (WORDS, {"N": 4, "quantifier": "around"}, ["w " * 5, "w " * 3], ["w " * 6, "w " * 2]),
    (WORDS, {"N": 50, "quantifier": "at most"}, ["w " * 50], ["w " * 51]),
    (WORDS, {"N": 50, "quantifier": "at least"}, ["w " * 50], ["w " * 49]),
    (
        SENTENCES,
        {"N": 2, "quantifier": "around"},
        ["A.", "A. B.", "A? B. C."],
        ["A. B. C. D."],
    ),
    (SENTENCES, {"N": 2, "quantifier": "at least"}, ["A. B"], ["A! B!", "Mr. Fox", "e.g. this"]),
    (SENTENCES, {"N": 2, "quantifier": "at most"}, ["A. B. "], ["A. B. C"]),
    (
        "validate_paragraphs",
        {"N": 2, "first_word": "It", "i": 2},
        ["a\n\nIt is", "a\n\nItself\n\n"],
        ["a\n\nit is", "It\n\na", "a\n\nIt\n\nb"],
    ),
    (
        "verify_postscript",
        {"postscript_marker": "P.S."},
        ["a P.S. b"],
        ["a P.S.", "P.S. \n", "p.s. b"],
    ),
    ("validate_placeholders", {"N": 2}, ["[a] [b]"], ["[a]", "none", "[" * 9]),
    ("verify_bullet_points", {"N": 2}, ["* a\n - b", "**a**\n*b*"], ["* a", "* a\n* b\n* c"]),
    ("validate_title", {}, ["a <<t>>", "<<>>"], ["<t>", "<<t\n>>", ">> <<"]),
    (
        "validate_choice",
        {"options": ["yes it is", "no"]},
        ["I say yes it is.", "nothing"],
        ["yes", "y", "NO"],
    ),
    ("validate_highlighted_sections", {"N": 2}, ["*a* *b*", "**a**"], ["*a*", "*a\nb* *c"]),
    (
        "validate_sections",
        {"N": 2, "section_splitter": "SECTION"},
        ["SECTION 1 a SECTION 2 b", "intro SECTION 1"],
        ["SECTION 1", "SECTION 1 SECTION 2 SECTION 3", "intro SECTION 1 SECTION 2"],
    ),
    (
        "validate_json_format",
        {},
        [' {"a": 1} ', "3"],
        ["```json\n{}\n```", "{", "[" * 10_000],
    ),
    (
        "validate_repeat_prompt",
        {"original_prompt": "Say (it)."},
        ["Say (it). It."],
        ["say (it). It.", "OK Say (it)."],
    ),
    ("validate_two_responses", {}, ["a******b"], ["a******a", "a******b******c", "a*****b"]),
    ("validate_uppercase", {}, [" ALL 1!\n"], ["ALl"]),
    ("validate_lowercase", {}, [" all 1!\n"], ["alL"]),
    (CAPITALS, {"N": 2, "quantifier": "around"}, ["NASA and I"], ["NASA", "A B C"]),
    (CAPITALS, {"N": 2, "quantifier": "at most"}, ["A B", "a"], ["A B C"]),
    (CAPITALS, {"N": 2, "quantifier": "at least"}, ["X-RAY"], ["ÄB Nasa I"]),
    ("validate_end", {"end_phrase": "The end."}, ["It is The end. \n"], ["the end.", "The end.!"]),
    ("validate_quotation", {}, [' "a" '], ['"', '"a', "a"]),
    ("validate_no_commas", {}, ["a; b"], ["a, b"]),
]


def one(name, **given):
    (constraint,) = constraints_of({"ground_truth": {"func_name": name, **given}})
    return constraint


def test_each_of_the_25_has_cases():
    assert len(CHECKS) == 25
    assert len({identity for identity, _ in CHECKS.values()}) == 25
    assert {name for name, *_ in CASES} == set(CHECKS)


@pytest.mark.parametrize(("name", "given", "good", "bad"), CASES)
def test_the_boundary(name, given, good, bad):
    constraint = one(name, **given)
    assert constraint.id == CHECKS[name][0]
    assert [text for text in good if not constraint.holds(text)] == []
    assert [text for text in bad if constraint.holds(text)] == []


@settings(max_examples=60)
@given(st.text(alphabet=st.sampled_from('ab A.?!*[]<>"-\n,1\ud800'), max_size=60))
def test_no_text_breaks_a_check(text):
    for name, given_, *_ in CASES:
        assert one(name, **given_).holds(text) in (True, False)


@pytest.mark.parametrize("unit", ["a", " ", "*", "[", "<<", ". ", "\n", "* * *", "{"])
def test_a_megabyte_of_anything_is_judged_in_time(unit):
    text = unit * (1_000_000 // len(unit))
    for name, given_, *_ in CASES:
        one(name, **given_).holds(text)
