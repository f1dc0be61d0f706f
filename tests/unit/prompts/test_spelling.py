"""Spelling noise: how much of it, what it leaves alone, and that it comes out the same again."""

from random import Random

import pytest

from posttrain.prompts.spelling import _slip, misspelt, misspelt_prompt

WORDS = " ".join(["alpha", "beta", "gamma", "delta", "epsilon"] * 8)


def test_a_share_of_the_words_changes_and_at_least_one():
    for share, expected in ((0.05, 2), (0.5, 20), (0.001, 1)):
        found = misspelt(WORDS, share, Random(0)).split()
        assert len(found) == 40
        assert sum(a != b for a, b in zip(found, WORDS.split(), strict=True)) == expected


@pytest.mark.parametrize("seed", range(30))
def test_a_slip_changes_a_word_and_brings_in_no_letter(seed):
    for word in ("of", "aa", "spelling"):
        found = _slip(word, Random(seed))
        assert found != word and set(found) <= set(word) and abs(len(found) - len(word)) <= 1


def test_numbers_and_signs_stay():
    assert misspelt("7+58=", 1.0, Random(0)) == "7+58="
    found = misspelt("is 12 + 34 even?", 1.0, Random(0))
    assert found != "is 12 + 34 even?" and "12 + 34" in found and found.endswith("?")
    assert misspelt("", 0.5, Random(0)) == ""


def test_the_same_seed_gives_the_same_noise():
    assert misspelt(WORDS, 0.3, Random("3/row/1")) == misspelt(WORDS, 0.3, Random("3/row/1"))
    assert misspelt(WORDS, 0.3, Random("3/row/1")) != misspelt(WORDS, 0.3, Random("3/row/2"))


def test_of_a_conversation_the_users_last_words_change():
    said = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hello there"},
        {"role": "assistant", "content": "yes please"},
        {"role": "user", "content": "sort these letters"},
    ]
    found = misspelt_prompt(said, 0.1, Random(0))
    assert found[:3] == said[:3] and found[3]["role"] == "user"
    assert found[3]["content"] != said[3]["content"] == "sort these letters"
