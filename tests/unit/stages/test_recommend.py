"""Which model to take: chosen on one half of the prompts, reported on the other."""

import pytest

from posttrain.config.suites import Recommend, Suite
from posttrain.stages.recommend import recommend, tax


def passes(even, odd):
    """20 prompts: `even` of the ten even-numbered ones right, `odd` of the ten others."""
    halves = [1] * even + [0] * (10 - even), [1] * odd + [0] * (10 - odd)
    return [each for pair in zip(*halves, strict=True) for each in pair]


def test_most_gain_within_the_tax(suite, measured):
    models = {
        "base": measured(passes(0, 0), passes(9, 9)),
        "sft": measured(passes(5, 4), passes(9, 8)),
        "rlvr": measured(passes(9, 9), passes(4, 4)),  # tax 90 - 40 = 50 points
        "average": measured(passes(8, 7), passes(8, 7)),  # tax 90 - 80 = 10 on the even half
    }
    choice = recommend(Recommend(tax_at_most=10), suite, models)
    assert choice.stage == "average"
    # of the odd half: gain 7 of 10, tax 90 - 70
    assert choice.why == (
        "average: gain 70 % for a tax of 20.0 points (chosen on half of the prompts, measured on "
        "the other)"
    )
    assert recommend(Recommend(tax_at_most=50), suite, models).stage == "rlvr"
    assert recommend(Recommend(tax_at_most=9.9), suite, models).stage == "sft"


def test_luck_on_the_reported_half_does_not_choose(suite, measured):
    models = {
        "base": measured(passes(0, 0), passes(9, 9)),
        "steady": measured(passes(6, 6), passes(9, 9)),
        "lucky": measured(passes(5, 10), passes(9, 9)),  # 15 of 20, more than steady's 12
    }
    choice = recommend(Recommend(), suite, models)
    assert choice.stage == "steady"
    assert choice.why.startswith("steady: gain 60 % for a tax of 0.0 points")


def test_a_tax_of_exactly_the_limit_is_allowed(measured):
    # In floating point 0.3 - 0.1 is less than 0.2, 0.8 - 0.6 more.
    suite = Suite(gain=["microworld/arithmetic"], keep=["microworld/copy"], tax_since="base")
    for before, after in ((3, 1), (8, 6), (9, 7)):
        models = {
            "base": measured(passes(0, 0), passes(before, 0)),
            "rlvr": measured(passes(9, 9), passes(after, 0)),
        }
        assert recommend(Recommend(tax_at_most=20), suite, models).stage == "rlvr"
        assert recommend(Recommend(tax_at_most=19.9), suite, models).stage == "base"


def test_where_every_model_costs_too_much_none_is_recommended(suite, measured):
    """Without the base among them: it always has a tax of 0."""
    suite = suite.model_copy(update={"tax_since": "sft"})
    models = {
        "sft": measured(None, passes(9, 9)),
        "rlvr": measured(passes(9, 9), passes(5, 5)),
    }
    choice = recommend(Recommend(tax_at_most=3), suite, models)
    assert choice.stage is None
    assert choice.why == "no model has a tax of at most 3 points"


def test_without_a_base_there_is_no_tax(suite, measured):
    suite = suite.model_copy(update={"tax_since": None})
    choice = recommend(Recommend(), suite, {"rlvr": measured(passes(9, 8), passes(5, 5))})
    assert choice.stage == "rlvr"
    assert choice.why == ("rlvr: gain 80 % (chosen on half of the prompts, measured on the other)")


def test_among_equals_the_first_is_taken(suite, measured):
    models = {name: measured(passes(5, 5), passes(9, 9)) for name in ("base", "sft", "rlvr")}
    assert recommend(Recommend(), suite, models).stage == "base"


def test_perplexity_neither_chooses_nor_costs(suite, measured):
    models = {
        "base": measured(passes(1, 1), passes(9, 9), perplexity=5.0),
        "rlvr": measured(passes(2, 2), passes(9, 9), perplexity=500.0),
    }
    assert recommend(Recommend(tax_at_most=0), suite, models).stage == "rlvr"


def test_a_single_prompt_chooses_and_is_reported(suite, measured):
    models = {"base": measured([0], [1]), "rlvr": measured([1], [1])}
    choice = recommend(Recommend(), suite, models)
    assert choice.stage == "rlvr"
    assert choice.why.startswith("rlvr: gain 100 % for a tax of 0.0 points")


def test_tax_is_what_was_kept_less_what_is_kept_now(suite, measured):
    since, now = measured(None, [1] * 8 + [0] * 2), measured(None, [1, 0])
    found = tax(suite, since, now)
    assert found is not None
    # 8 of 10: 0.8 (0.490162 to 0.943318); 1 of 2: 0.5 (0.094531 to 0.905469)
    # low: sqrt(0.309838² + 0.405469²) = 0.510289; high: sqrt(0.143318² + 0.405469²) = 0.430053
    assert found.value == pytest.approx(0.3)
    assert found.low == pytest.approx(0.3 - 0.510289, abs=1e-5)
    assert found.high == pytest.approx(0.3 + 0.430053, abs=1e-5)


def test_tax_needs_both_sides(suite, measured):
    assert tax(suite, None, measured([1], [1])) is None
    assert tax(suite, measured([1]), measured([1], [1])) is None
    assert tax(suite, measured([1], [1]), measured([1])) is None
