"""What becomes a row of the answers to one prompt, rule by rule."""

import importlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.config.field_sentences import sentences
from posttrain.config.plugins import CONTRACTS, load_plugin, shipped
from posttrain.selection import COMPLETION, PAIR, Candidate, best, best_worst, dno, everything


def answers(*scores: float) -> list[Candidate]:
    return [Candidate(f"answer {number}", score) for number, score in enumerate(scores)]


def scores_of(pairs):
    return [(winner.score, loser.score) for winner, loser in pairs]


@pytest.mark.parametrize("name", shipped("selection"))
def test_each_fulfils_its_contract(name):
    module = importlib.import_module(f"posttrain.selection.{name}")
    assert [each for each in CONTRACTS["selection"] if not hasattr(module, each)] == []
    assert module.COLUMNS in (PAIR, COMPLETION)
    assert module.__doc__ and module.Config.__doc__
    assert set(module.Config.model_fields) == set(sentences(module.Config))
    assert load_plugin("selection", name) is module


def test_the_shipped_ones():
    assert shipped("selection") == ["best", "best_worst", "dno", "everything"]


def test_best_and_worst_become_a_pair():
    assert scores_of(best_worst.select(answers(0.2, 0.9, 0.1, 0.5), best_worst.Config())) == [
        (0.9, 0.1)
    ]


def test_of_equal_scores_the_earlier_answer_counts():
    ((winner, loser),) = best_worst.select(answers(1.0, 0.0, 1.0, 0.0), best_worst.Config())
    assert (winner.text, loser.text) == ("answer 0", "answer 1")


@pytest.mark.parametrize(
    ("scores", "min_margin", "pairs"),
    [
        ((0.5, 0.5, 0.5), 0.0, 0),  # nobody could tell them apart
        ((0.5,), 0.0, 0),  # one answer is no pair
        ((0.6, 0.4), 0.25, 0),  # .2 apart
        ((0.7, 0.4), 0.25, 1),  # .3 apart
        ((0.75, 0.5), 0.25, 0),  # no more than the margin
    ],
)
def test_pairs_that_the_judge_could_not_tell_apart_are_left_out(scores, min_margin, pairs):
    config = best_worst.Config(min_margin=min_margin)
    assert len(best_worst.select(answers(*scores), config)) == pairs


def test_the_best_answers_by_falling_score():
    chosen = best.select(answers(0.1, 0.8, 0.3, 0.9), best.Config(count=2))
    assert [each.score for each in chosen] == [0.9, 0.8]


def test_an_answer_that_is_not_good_enough_is_never_kept():
    assert best.select(answers(0.1, 0.4), best.Config(min_score=0.5)) == []


def test_the_same_text_counts_once():
    twice = [Candidate("a", 0.9), Candidate("a", 0.9), Candidate("b", 0.5)]
    assert [each.text for each in best.select(twice, best.Config(count=3))] == ["a", "b"]


def test_everything_is_kept_without_scores():
    candidates = answers(math.nan, math.nan)
    assert everything.select(candidates, everything.Config()) == candidates


def test_direct_nash_optimization_of_the_published_example():
    # Policy 6, 4, 3 and teacher 5. A winner of the policy beats what is 1 below it: 4, 3 and the
    # teacher. The teacher beats what is 2 below it: 3, and not 4.
    candidates = [*answers(6, 4, 3), Candidate("the teacher's", 5, of_policy=False)]
    assert scores_of(dno.select(candidates, dno.Config())) == [(6, 4), (6, 3), (6, 5), (5, 3)]


def test_a_winner_below_the_bar_is_none():
    assert dno.select(answers(4, 1), dno.Config()) == []


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=12))
def test_a_winner_always_scores_more(scores):
    candidates = answers(*scores)
    config = dno.Config(min_chosen=-10, gap=1e-6, gap_of_own=1e-6)
    for pairs in (
        best_worst.select(candidates, best_worst.Config()),
        dno.select(candidates, config),
    ):
        assert all(winner.score > loser.score for winner, loser in pairs)
