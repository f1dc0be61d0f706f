"""The reward `ifeval`: both forms, strict and loose, and what it says of an answer."""

import pytest
from reward_examples import failed_gold

from posttrain.config.plugins import load_plugin
from posttrain.errors import RewardBroken

ROW = {
    "instruction_id_list": ["punctuation:no_comma", "startend:quotation", "keywords:existence"],
    "kwargs": [{}, {}, {"keywords": ["cat"]}],
}


@pytest.fixture(scope="module")
def ifeval():
    return load_plugin("reward", "ifeval")


@pytest.mark.parametrize("form", ["all", "fraction"])
@pytest.mark.parametrize("loose", [False, True])
def test_its_examples_hold_with_every_setting(ifeval, form, loose):
    assert failed_gold(ifeval, ifeval.Config(form=form, loose=loose)) == []


def test_all_or_the_share(ifeval):
    answer = "a cat; a dog"  # two of three
    every = ifeval.score(ROW, answer, ifeval.Config())
    share = ifeval.score(ROW, answer, ifeval.Config(form="fraction"))
    assert (every.value, every.passed) == (0.0, False)
    assert (share.value, share.passed) == (pytest.approx(2 / 3), False)
    assert every.reason == share.reason == "violated: startend:quotation"
    assert every.parts == {
        "ifeval/punctuation:no_comma": 1.0,
        "ifeval/startend:quotation": 0.0,
        "ifeval/keywords:existence": 1.0,
        "asked": 3.0,
        "followed/strict": 2.0,
        "followed/loose": 2.0,
    }


def test_loose_decides_the_score_not_the_counts(ifeval):
    answer = 'Sure, here:\n"a cat"'
    strict = ifeval.score(ROW, answer, ifeval.Config())
    loose = ifeval.score(ROW, answer, ifeval.Config(loose=True))
    assert (strict.value, loose.value, loose.passed, loose.reason) == (0.0, 1.0, True, "")
    assert strict.parts["followed/loose"] == loose.parts["followed/loose"] == 3.0
    assert strict.parts["followed/strict"] == loose.parts["followed/strict"] == 1.0


def test_an_id_that_is_asked_twice_counts_as_its_worse_one(ifeval):
    words = "length_constraints:number_words"
    between = {
        "instruction_id_list": [words, words],
        "kwargs": [
            {"num_words": 2, "relation": "at least"},
            {"num_words": 4, "relation": "less than"},
        ],
    }
    score = ifeval.score(between, "one two three four", ifeval.Config(form="fraction"))
    assert (score.value, score.parts[f"ifeval/{words}"]) == (0.5, 0.0)
    assert ifeval.score(between, "one two three", ifeval.Config()).value == 1.0


def test_a_row_without_instructions_is_broken_not_wrong(ifeval):
    with pytest.raises(RewardBroken, match="no `instruction_id_list`"):
        ifeval.score({"answer": "18"}, "18", ifeval.Config())
