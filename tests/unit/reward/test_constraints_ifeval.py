"""IFEval's 25 constraints by the benchmark's rules: what just follows them, what just does not."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.reward.constraints import texts
from posttrain.reward.constraints.ifeval import CHECKS

# (id, settings, texts that follow it, texts that do not)
CASES = [
    ("keywords:existence", {"keywords": ["Cat", "dog"]}, ["a CAT, a dog", "dogcats"], ["a cat"]),
    ("keywords:existence", {"keywords": ["C++ (old)"]}, ["my c++ (OLD) code"], ["C old"]),
    (
        "keywords:frequency",
        {"keyword": "cat", "frequency": 2, "relation": "at least"},
        ["Cat cat", "catcat"],
        ["cat"],
    ),
    (
        "keywords:frequency",
        {"keyword": "cat", "frequency": 2, "relation": "less than"},
        ["cat", "dog"],
        ["Cat cats"],
    ),
    (
        "keywords:forbidden_words",
        {"forbidden_words": ["cat", "c++"]},
        ["catalogue c+"],
        ["A CAT.", "in C++, too", "c++"],
    ),
    (
        "keywords:letter_frequency",
        {"letter": "a", "let_frequency": 3, "let_relation": "at least"},
        ["Aaa"],
        ["aA"],
    ),
    (
        "keywords:letter_frequency",
        {"letter": "E", "let_frequency": 1, "let_relation": "less than"},
        ["xyz"],
        ["xey"],
    ),
    (
        "language:response_language",
        {"language": "de"},
        ["Das ist ein Satz über das Wetter."],
        ["This is a sentence about the weather.", "123 !"],
    ),
    (
        "language:response_language",
        {"language": "zh"},
        ["今天天气很好。我们去公园散步吧。"],
        ["今日は天気がいいので公園へ行きましょう。"],
    ),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["a\n***\nb", "a***b", "***a***b***"],
        ["a", "a\n***\nb\n***\nc", "a\n***\n \n***\nb", "a\n* * *\nb"],
    ),
    (
        "length_constraints:number_words",
        {"num_words": 3, "relation": "at least"},
        ["one two three", "don't - go"],
        ["one two", "one - two"],
    ),
    (
        "length_constraints:number_words",
        {"num_words": 3, "relation": "less than"},
        ["one two"],
        ["one two three"],
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "at least"},
        ["One. Two", "Is it? Yes!"],
        ["One.", "one\ntwo\nthree", "Dr. Hu, e.g. Mr. Fox"],
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 3, "relation": "less than"},
        ["One. Two."],
        ["One. Two. Three."],
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "It"},
        ["a\n\nit is", "a\n\n'IT, he said\n\n"],
        ["it\n\na", "a\n\nits", "a\n\nb\n\nit", "a\nit", "\n\na\n\nit"],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        ["x\nP.S. y", "p. s. y"],
        ["x\nPS: y", "p s"],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.P.S"},
        ["P.P.S y", "p. p. s."],
        ["P.S. y"],
    ),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        ["[a] [b]", "[] [x y]"],
        ["[a]", "[a[b]", "[a\n] [b]"],
    ),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["* a\n* b", " - a\n  *b\n**bold**"],
        ["* a", "* a\n* b\n---", "+ a\n+ b"],
    ),
    (
        "detectable_format:title",
        {},
        ["<<t>>", "x << a b >> y"],
        ["<<>>", "<< >>", "<<a\n>>", "<a>"],
    ),
    (
        "detectable_format:constrained_response",
        {},
        ["So: My answer is maybe. Truly."],
        ["my answer is yes.", "My answer is yes", "yes"],
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*a* *b*", "**a** **b**", "*a* **b**"],
        ["**a**", "*a*", "* * **", "*a\nb* *c*"],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        ["SECTION 1\na\nSECTION 2\nb", "SECTION1 SECTION 2 SECTION 3"],
        ["SECTION 1", "Section 1 Section 2", "SECTION one SECTION two"],
    ),
    (
        "detectable_format:json_format",
        {},
        ['{"a": [1]}', '```json\n{"a": 1}\n```', "```\n[]```", '"text"', "1" * 5000],
        ["{'a': 1}", 'So: {"a": 1}', "```\n```", "[" * 10_000, "[" * 10_000 + "]" * 10_000],
    ),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Say (it) now. "},
        ["  say (it) now. It", "Say (it) now."],
        ["Well: Say (it) now.", "Say it now."],
    ),
    (
        "combination:two_responses",
        {},
        ["a\n******\nb", "******a******b******"],
        ["a", "a ****** a", "a******b******c", "a************b", "a ***** b"],
    ),
    (
        "change_case:english_capital",
        {},
        ["THIS IS A SENTENCE ABOUT THE WEATHER."],
        ["THIS IS A SENTENCE ABOUT THE WEATHEr.", "DAS IST EIN SATZ ÜBER DAS WETTER.", "1"],
    ),
    (
        "change_case:english_lowercase",
        {},
        ["this is a sentence about the weather."],
        ["this is a sentence about the Weather.", "das ist ein satz über das wetter."],
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        ["NASA and IBM", "I'm sure I am", "DON'T", "X-RAY, COVID-19"],
        ["NASA", "Nasa Ibm", "X-RAY"],
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "less than"},
        ["only NASA"],
        ["NASA, NASA"],
    ),
    (
        "startend:end_checker",
        {"end_phrase": "Peace!"},
        ["so PEACE!", '"Love. Peace!"\n'],
        ["Peace! Bye", "Peace"],
    ),
    ("startend:quotation", {}, ['"a"', ' "a" \n', '""'], ['"', '"a', "'a'", "“a”"]),
    ("punctuation:no_comma", {}, ["a; b"], ["a, b"]),
]


def test_each_of_the_25_has_cases():
    assert len(CHECKS) == 25
    assert {name for name, *_ in CASES} == set(CHECKS)


@pytest.mark.parametrize(("name", "given", "good", "bad"), CASES)
def test_the_boundary(name, given, good, bad):
    check = CHECKS[name]
    assert [text for text in good if not check(text, **given)] == []
    assert [text for text in bad if check(text, **given)] == []


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("no end mark", 1),
        ("One. two. three.", 3),
        ('He said "Stop." Then he left.', 2),
        ("**Bold.** Next one.", 2),
        ("Mr. and Mrs. Smith met J. R. Doe, Ph.D. at 5 p.m. in St. Louis.", 1),
        ("We met at 5 p.m. The sun shone.", 2),
        ("It is 3.14 or www.example.com today.", 1),
        ("1. First\n2. Second", 3),  # as Punkt: `1.`, `First 2.`, `Second`
        ("version 2. is", 1),
        ("Well... maybe", 1),
        ("Well... The end.", 2),
        ("What?! No!", 2),
    ],
)
def test_num_sentences(text, count):
    assert texts.num_sentences(text) == count


SAMPLE_SETTINGS = {name: given for name, given, *_ in CASES}
AROUND = st.sampled_from(["*", "-", "<<", ">>", "[", "]", "\n", '"', ". ", "P.S.", "```", "\ud800"])


@settings(max_examples=60)
@given(st.lists(st.one_of(st.text(max_size=20), AROUND), max_size=12).map("".join))
def test_no_text_breaks_a_check(text):
    for name, check in CHECKS.items():
        assert check(text, **SAMPLE_SETTINGS[name]) in (True, False)


@pytest.mark.parametrize(
    "unit",
    ["a", " ", "\n", "*", "[", "<", "<<", '"', "p.", "```", "{", "1", ".", "\ud800", "- ", "p\n"],
)
def test_a_megabyte_of_anything_is_judged_in_time(unit):
    text = unit * (1_000_000 // len(unit))
    for name, check in CHECKS.items():
        check(text, **SAMPLE_SETTINGS[name])
