"""Rows of both forms are read strictly and left alone; answers are judged strictly and loosely."""

import copy
import json

import pytest

from posttrain.errors import RewardBroken
from posttrain.reward.answers import without_thinking
from posttrain.reward.constraints.following import followed, loose_variants
from posttrain.reward.constraints.rows import constraints_of

COMMA = "punctuation:no_comma"
WORDS = "length_constraints:number_words"


def row(*instructions):
    ids, kwargs = zip(*instructions, strict=True)
    return {"instruction_id_list": list(ids), "kwargs": list(kwargs)}


def test_settings_that_are_none_are_not_there_and_floats_are_numbers():
    given = row((COMMA, {"num_words": None}), (WORDS, {"num_words": 3.0, "relation": "at least"}))
    assert [dict(each.settings) for each in constraints_of(given)] == [
        {},
        {"num_words": 3, "relation": "at least"},
    ]
    assert constraints_of(row((COMMA, None)))[0].settings == {}


@pytest.mark.parametrize("column", ["ground_truth", "constraint"])
@pytest.mark.parametrize("as_text", [False, True])
def test_a_training_row_names_its_function_and_is_not_changed(column, as_text):
    named = {"func_name": "validate_placeholders", "N": 1, "word": None, "options": None}
    given = {column: json.dumps(named) if as_text else named, "prompt": "x"}
    before = copy.deepcopy(given)
    for _ in range(2):  # the published code changed its label, and failed on the second use
        assert followed(given, "[a]").strict == (True,)
        assert followed(given, "a").strict == (False,)
    assert given == before


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({}, "no `instruction_id_list`"),
        ({"ground_truth": "18", "constraint": "Use no commas."}, "no `instruction_id_list`"),
        ({"ground_truth": "[" * 10_000}, "no `instruction_id_list`"),
        ({"instruction_id_list": COMMA, "kwargs": [{}]}, "not a list of ids"),
        ({"instruction_id_list": [], "kwargs": []}, "not a list of ids"),
        ({"instruction_id_list": [COMMA]}, "1 instructions, but `kwargs` is None"),
        ({"instruction_id_list": [COMMA], "kwargs": []}, "`kwargs` is 0 entries"),
        (row(("punctuation:no_dash", {})), "no instruction 'punctuation:no_dash'"),
        (row((None, {})), "no instruction None"),
        (row((COMMA, "{}")), "its settings are '{}'"),
        (row((COMMA, {"N": 3})), "`punctuation:no_comma` takes no `N`"),
        (row((WORDS, {"num_words": 3})), "misses `relation`"),
        (row((WORDS, {"num_words": None, "relation": "at least"})), "misses `num_words`"),
        (row((WORDS, {"num_words": "3", "relation": "at least"})), "'3', not a whole number"),
        (row((WORDS, {"num_words": True, "relation": "at least"})), "not a whole number"),
        (row((WORDS, {"num_words": 2.5, "relation": "at least"})), "not a whole number"),
        (row((WORDS, {"num_words": float("nan"), "relation": "at least"})), "not a whole number"),
        (row((WORDS, {"num_words": -1, "relation": "at least"})), "not a whole number"),
        (row((WORDS, {"num_words": 3, "relation": "at most"})), "one of less than, at least"),
        (row(("keywords:existence", {"keywords": "cat"})), "'cat', not a list of words"),
        (row(("keywords:existence", {"keywords": []})), "not a list of words"),
        (row(("keywords:existence", {"keywords": ["a", ""]})), "not a list of words"),
        (row(("startend:end_checker", {"end_phrase": " "})), "not a text"),
        (row(("language:response_language", {"language": "German"})), "a language's code"),
        (
            row(
                (
                    "keywords:letter_frequency",
                    {"letter": "ab", "let_frequency": 1, "let_relation": "at least"},
                )
            ),
            "not one letter",
        ),
        (
            row(
                (
                    "length_constraints:nth_paragraph_first_word",
                    {"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "it"},
                )
            ),
            "paragraph 3 of 2",
        ),
        ({"ground_truth": {"func_name": "validate_haiku"}}, "no constraint 'validate_haiku'"),
        ({"ground_truth": {"func_name": ["validate_end"]}}, "no constraint"),
        ({"ground_truth": {"func_name": "validate_end"}}, "misses `end_phrase`"),
        (
            {
                "ground_truth": {
                    "func_name": "validate_word_constraint",
                    "N": 3,
                    "quantifier": "less",
                }
            },
            "one of at least, at most, around",
        ),
    ],
)
def test_a_row_that_makes_no_sense_is_refused_not_scored(broken, message):
    with pytest.raises(RewardBroken) as error:
        constraints_of(broken)
    assert message in error.value.message and len(error.value.message) < 200


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("plain ", "plain "),
        ("<think>a, b</think>\n\nc", "c"),
        ("a, b</think>c", "c"),  # the template wrote the opening tag
        ("<think>a</think>b<think>c</think> d", "d"),
        (" <think>a and on", ""),
        ("I <think> so", "I <think> so"),
        ("<think>a</think>", ""),
    ],
)
def test_thinking_is_taken_off(completion, answer):
    assert without_thinking(completion).lstrip() == answer


def test_an_empty_answer_follows_nothing():
    given = row((COMMA, {}), (WORDS, {"num_words": 5, "relation": "less than"}))
    for empty in ("", " \n\t", "<think>one</think>\n", "<think>one"):
        assert followed(given, empty).loose == (False, False)


def test_loosely_is_without_the_first_line_the_last_both_and_without_stars():
    assert loose_variants("a*\nb*\nc*") == (
        "b*\nc*",
        "a*\nb*",
        "b*",
        "a\nb\nc",
        "b\nc",
        "a\nb",
        "b",
    )
    assert loose_variants("one line") == ()
    assert loose_variants("*") == ()


def test_each_instruction_may_be_followed_by_another_variant():
    given = row((COMMA, {}), ("startend:end_checker", {"end_phrase": "The end"}))
    found = followed(given, "Sure, here it is:\nThe **end**\nDone.")
    assert (found.strict, found.loose) == ((False, False), (True, True))
    assert followed(given, "Sure, **a** b").loose == (False, False)


def test_what_is_followed_strictly_is_followed_loosely():
    # without its first line, its last and its stars nothing would be left of it
    found = followed(row(("detectable_format:number_bullet_lists", {"num_bullets": 1})), "* a")
    assert (found.strict, found.loose) == ((True,), (True,))
