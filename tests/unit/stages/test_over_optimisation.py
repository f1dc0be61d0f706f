"""A sweep's points, its law, and what is made of them in words."""

import math

import pytest

from posttrain.stages.over_optimisation import Seen, fit_law, summarise
from posttrain.types import Interval


def at(model: str, kl: float, gold: float) -> Seen:
    return Seen(model, Interval(kl, kl, kl), Interval(gold, gold, gold))


def law(distance: float, alpha: float = 1.2, beta: float = 0.3) -> float:
    return distance * (alpha - beta * math.log(distance))


SWEEP = [at("sft", 0.0, 0.5), *(at(f"d{d}", d * d, 0.5 + law(d)) for d in (1, 2, 4, 8))]


def test_the_published_law_is_found_again():
    # Gains over the start at d = 1, 2, 4, 8 lie on alpha 1.2, beta .3.
    assert fit_law(SWEEP) == pytest.approx((1.2, 0.3), abs=1e-5)


def test_the_peak_says_where_to_stop():
    document = summarise(SWEEP, (1.2, 0.3))["over_optimisation"]
    assert document["peak"]["distance"] == pytest.approx(20.085537, abs=1e-5)
    assert document["peak"]["gain"] == pytest.approx(6.025661, abs=1e-5)
    assert document["best"] == "d8"
    assert "beyond all models" in document["why"]


def test_a_peak_within_the_sweep_is_told():
    points = [at("sft", 0.0, 0.0), at("a", 0.5, 0.3), at("b", 2.0, 0.35), at("c", 9.0, 0.1)]
    fitted = fit_law(points)
    document = summarise(points, fitted)["over_optimisation"]
    assert 0.5 < document["peak"]["kl"] < 9.0
    assert document["why"].startswith("b is best: gold 0.350 at 2.00 nats; the law peaks at")


def test_quality_that_never_falls_has_no_peak():
    document = summarise(SWEEP, (0.1, -0.2))["over_optimisation"]
    assert document["peak"] is None and "does not fall" in document["why"]


def test_models_at_one_distance_have_no_law():
    assert fit_law([at("sft", 0.0, 0.0), at("a", 1.0, 0.1), at("b", 1.0, 0.2)]) is None


def test_a_distance_that_chance_made_negative_counts_as_none():
    assert fit_law([at("sft", 0.0, 0.0), at("a", -0.01, 0.1), at("b", 1.0, 0.2)]) is None
