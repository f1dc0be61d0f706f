"""Answers that are meant to crash a verifier, or to keep it busy, are wrong or cheap to score."""

import time

import pytest

from posttrain.config.field_sentences import sentences
from posttrain.config.plugins import load_plugin
from posttrain.errors import RewardBroken
from posttrain.reward.protocol import checked

READING_ROWS = ["gsm8k", "math", "multiple_choice", "countdown", "game24", "knights_knaves"]
READING_ROWS += ["exact", "regex", "json_schema", "language"]
MEASURING = ["length", "overlong", "format_tags", "repetition"]

MEGABYTE = 1_000_000
HOSTILE = {
    "empty": "",
    "blank": " " * MEGABYTE,
    "letters": "a" * MEGABYTE,
    "capitals": "A " * (MEGABYTE // 2),
    "digits": "9" * MEGABYTE,
    "thousands": "1" + ",111" * (MEGABYTE // 4) + "1",
    "surrogates": "\ud800 \\boxed{\udfff} <answer>\ud800</answer> 7",
    "braces": "\\boxed{" + "{" * 10_000 + "}" * 10_000,
    "brackets": "(" * 10_000 + "1" + ")" * 10_000,
    "boxes": "\\boxed{" * (MEGABYTE // 7),
    "dollars": "$" * MEGABYTE,
    "tags": "<answer>" * (MEGABYTE // 8) + "</answer>",
    "tower": "9**9**9",
    "boxed tower": "\\boxed{9^{9^{9^{9}}}} <answer>9**9**9</answer>",
    "minuses": "\\boxed{" + "-" * 900 + "1} <answer>" + "-" * 290 + "1</answer>",
    "fractions": "\\boxed{" + "\\frac{1}{" * 100 + "2" + "}" * 101,
    "quotes": '"' * MEGABYTE,
    "json": '{"a":' * 100_000,
    "nulls": "\0" * 10_000 + "<answer>\0 1 + 1</answer>",
}


@pytest.mark.parametrize("answer", list(HOSTILE))
@pytest.mark.parametrize("name", READING_ROWS + MEASURING)
def test_hostile_answers_are_scored_soon(name, answer):
    reward = load_plugin("reward", name)
    config = reward.Config()
    row = reward.gold(config)[0].row
    begin = time.process_time()
    score = checked(reward.score(row, HOSTILE[answer], config))
    assert time.process_time() - begin < 2.0
    assert 0.0 <= score.value <= 1.0
    assert name in MEASURING or name == "language" or score.value == 0.0


@pytest.mark.parametrize("name", READING_ROWS)
def test_rows_without_their_columns_are_broken(name):
    reward = load_plugin("reward", name)
    with pytest.raises(RewardBroken):
        reward.score({"other": 1}, "some answer", reward.Config())


@pytest.mark.parametrize("name", READING_ROWS + MEASURING)
def test_every_setting_is_described_and_has_a_default(name):
    config = load_plugin("reward", name).Config
    fields = config.model_fields
    assert set(fields) - set(sentences(config)) == set()
    assert [key for key, field in fields.items() if field.is_required()] == []
