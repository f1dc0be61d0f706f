"""The rewards that compare or measure a text: exact, regex, json_schema, length and the like."""

import time

import pytest
from posttrain.rewards import (
    exact,
    format_tags,
    json_schema,
    language,
    length,
    overlong,
    regex,
    repetition,
)
from pydantic import ValidationError
from reward_examples import failed_gold

from posttrain.errors import RewardBroken


@pytest.mark.parametrize(
    ("reward", "settings"),
    [
        (exact, {"ignore_case": True, "strip": False}),
        (regex, {"whole": True, "ignore_case": True, "pattern": "x"}),
        (json_schema, {"json_schema": {"type": "null"}}),
        (length, {"low": 0, "high": 1, "unit": "characters"}),
        (length, {"low": 50, "high": 50}),
        (overlong, {"cap": 5, "buffer": 5}),
        (overlong, {"cap": 100, "buffer": 1, "unit": "characters"}),
        (format_tags, {"tags": ("answer",)}),
        (format_tags, {"tags": ("a", "b", "c"), "strict": False}),
        (language, {"language": "ja"}),
        (repetition, {"n": 1}),
        (repetition, {"n": 100}),
        (repetition, {"n": 4, "unit": "characters"}),
    ],
)
def test_gold_and_bad_hold_with_other_settings(reward, settings):
    assert failed_gold(reward, reward.Config(**settings)) == []


def test_a_pattern_that_backtracks_forever_is_broken_and_stopped():
    begin = time.monotonic()
    with pytest.raises(RewardBroken, match=r"was not decided within 0\.2 s"):
        regex.score({"pattern": "^(a|aa)+$"}, "a" * 5_000 + "b", regex.Config(seconds=0.2))
    assert time.monotonic() - begin < 5.0


def test_patterns_have_to_be_there_and_compile():
    with pytest.raises(RewardBroken, match="no column `pattern`"):
        regex.score({}, "x", regex.Config())
    with pytest.raises(RewardBroken, match="is no regular expression"):
        regex.score({"pattern": "("}, "x", regex.Config())
    with pytest.raises(ValidationError, match="no regular expression"):
        regex.Config(pattern="(")
    assert regex.score({}, "xyz", regex.Config(pattern="y")).value == 1.0
    assert regex.score({}, "xyz", regex.Config(pattern="y", whole=True)).value == 0.0


def test_schemas_have_to_be_there_and_sound():
    config = json_schema.Config()
    for schema in ({}, {"schema": None}, {"schema": "{"}, {"schema": {"type": "nothing"}}):
        with pytest.raises(RewardBroken, match="schema"):
            json_schema.score(schema, "{}", config)
    for schema in ({"$ref": "http://localhost/x"}, {"$ref": "#"}):  # nothing is fetched
        with pytest.raises(RewardBroken, match="cannot be used"):
            json_schema.score({"schema": schema}, "{}", config)


def test_json_reasons_say_where():
    row = {"schema": {"properties": {"age": {"type": "integer"}}}}
    score = json_schema.score(row, '{"age": "x"}', json_schema.Config())
    assert (score.value, score.reason) == (0.0, "$.age: 'x' is not of type 'integer'")
    deep = "[" * 150 + "]" * 150
    assert json_schema.score({"schema": True}, deep, json_schema.Config()).reason == (
        "expected JSON, found it nested deeper than 100"
    )
    assert json_schema.score({"schema": True}, deep[60:-60], json_schema.Config()).value == 1.0


@pytest.mark.parametrize(
    ("words", "value"),
    [(0, 0.0), (5, 0.5), (10, 1.0), (20, 1.0), (25, 0.75), (40, 0.0), (99, 0.0)],
)
def test_length_falls_linearly_outside_its_bounds(words, value):
    # 5 of 10 wanted: 0.5. 25 where 20 are allowed: 2 - 25/20 = 0.75.
    config = length.Config(low=10, high=20)
    assert length.score({}, "word " * words, config).value == value


@pytest.mark.parametrize(
    ("words", "value"), [(0, 1.0), (16384, 1.0), (18432, 0.5), (20480, 0.0), (30000, 0.0)]
)
def test_overlong_is_the_papers_punishment_plus_one(words, value):
    config = overlong.Config(cap=20480, buffer=4096)  # R_len: 0, 0, -0.5, -1, -1
    assert overlong.score({}, "word " * words, config).value == value


def test_bounds_have_to_fit():
    with pytest.raises(ValidationError, match="above"):
        length.Config(low=5, high=4)
    with pytest.raises(ValidationError, match="above"):
        overlong.Config(cap=5, buffer=6)


def test_tags_say_what_is_wrong():
    config = format_tags.Config()
    reasons = [
        format_tags.score({}, text, config).reason
        for text in (
            "<answer>b</answer>",
            "<answer>b</answer><think>a</think>",
            "<think> </think><answer>b</answer>",
            "<think>a</think> c <answer>b</answer>",
        )
    ]
    assert reasons == [
        "expected <think> once, found it 0 times",
        "expected nothing before <think>, found <answer>b</answer>",
        "expected something in <think>, found nothing",
        "expected nothing before <answer>, found c",
    ]
    with pytest.raises(ValidationError, match="each given once"):
        format_tags.Config(tags=("a", "a"))


def test_repetition_counts_ngrams():
    # "a b a b a b": its 2-grams are ab ba ab ba ab: 2 of 5 are new.
    assert repetition.score({}, "a b a b a b", repetition.Config(n=2)).value == pytest.approx(0.4)
    assert repetition.score({}, "a b c", repetition.Config(n=4)).value == 1.0


def test_languages_have_to_be_known():
    with pytest.raises(RewardBroken, match="cannot be told"):
        language.score({"language": "tlh"}, "nuqneH", language.Config())
    with pytest.raises(RewardBroken, match="no column `language`"):
        language.score({}, "hello", language.Config())
    with pytest.raises(ValidationError, match="no such language"):
        language.Config(language="tlh")


def test_exact_forgives_what_it_is_told_to():
    row = {"answer": "Yes"}
    assert exact.score(row, " Yes\n", exact.Config()).value == 1.0
    assert exact.score(row, " Yes\n", exact.Config(strip=False)).value == 0.0
    assert exact.score(row, "yes", exact.Config(ignore_case=True)).value == 1.0
    assert exact.score(row, "yes", exact.Config()).reason == "expected Yes, found yes"
