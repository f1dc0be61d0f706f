"""Worked numbers of the direct alignment losses, and their limits."""

import math

import pytest
import torch

from posttrain import ops

# One pair: log-probs -10 and -12 of 10 and 8 tokens, of the reference -11 and -11.5.
MARGIN = torch.tensor([1.5])
MEANS = (torch.tensor([-1.0]), torch.tensor([-1.5]))


def one(value):
    return float(value[0])


def test_dpo_and_its_conservative_form():
    assert one(ops.preferences.dpo(MARGIN, 0.1)) == pytest.approx(0.620957, abs=1e-6)
    assert one(ops.preferences.dpo(MARGIN, 0.1, 0.1)) == pytest.approx(0.635957, abs=1e-6)


def test_the_weight_of_dpos_gradient_is_how_wrong_the_pair_is():
    margin = MARGIN.clone().requires_grad_()
    ops.preferences.dpo(margin, 0.1).sum().backward()
    assert float(margin.grad) == pytest.approx(-0.1 * 0.462570, abs=1e-6)


def test_conservative_dpo_is_least_at_a_finite_margin():
    margins = torch.linspace(0, 60, 6001, dtype=torch.float64)
    best = margins[ops.preferences.dpo(margins, 0.1, 0.1).argmin()]
    assert float(best) == pytest.approx(math.log(9) / 0.1, abs=0.01)


def test_simpo():
    assert one(ops.preferences.simpo(*MEANS, 2.0, 1.0)) == pytest.approx(math.log(2), abs=1e-6)
    assert one(ops.preferences.simpo(*MEANS, 2.5, 1.375)) == pytest.approx(0.757599, abs=1e-6)


def test_orpo():
    assert one(ops.preferences.orpo(*MEANS, 0.1)) == pytest.approx(1.040114, abs=1e-6)


def test_orpo_of_a_certain_answer_is_finite_and_keeps_small_odds():
    sure, unlikely = torch.zeros(1), torch.tensor([-30.0])
    assert math.isfinite(one(ops.preferences.orpo(sure, unlikely, 0.1)))
    assert math.isfinite(one(ops.preferences.orpo(unlikely, sure, 0.1)))


def test_kto_against_the_kl_of_mismatched_answers():
    baseline = ops.preferences.kto_baseline(torch.tensor([0.5, -0.2, 0.3, 0.0]))
    assert float(baseline) == pytest.approx(0.15)
    good, bad = torch.tensor([1.0]), torch.tensor([-0.5])
    only_good = 2 * ops.preferences.kto(good, bad, baseline, 0.1, 1.0, 0.0)
    only_bad = 2 * ops.preferences.kto(good, bad, baseline, 0.1, 0.0, 1.0)
    assert one(only_good) == pytest.approx(0.478763, abs=1e-6)
    assert one(only_bad) == pytest.approx(0.483756, abs=1e-6)
    assert float(ops.preferences.kto_baseline(torch.tensor([-3.0, 1.0]))) == 0.0


def test_kto_of_single_answers_is_its_half_of_a_pair():
    baseline = torch.tensor(0.15)
    ratios, good = torch.tensor([1.0, -0.5]), torch.tensor([True, False])
    found = ops.preferences.kto_judged(ratios, good, baseline, 0.1, torch.tensor([1.0, 2.0]))
    # 1 - σ(.1 · .85) and 2 · (1 - σ(.1 · .65))
    assert found.tolist() == pytest.approx([0.478763, 2 * 0.483756], abs=1e-6)


def test_the_rarer_label_counts_for_as_much_as_the_other():
    assert ops.preferences.label_weights(100, 300) == (3.0, 1.0)
    assert ops.preferences.label_weights(300, 100) == (1.0, 3.0)
    assert ops.preferences.label_weights(5, 5) == ops.preferences.label_weights(0, 7) == (1.0, 1.0)


def test_good_answers_above_bad_ones_are_counted_over_pairs():
    ratios = torch.tensor([0.5, -0.1, 0.5, -0.3])
    good = torch.tensor([True, True, False, False])
    # a tie, right, wrong, right
    assert ops.preferences.good_above_bad(ratios, good) == 2.5 / 4
    assert ops.preferences.good_above_bad(ratios, torch.ones(4, dtype=torch.bool)) == 0.5


def test_srpo():
    # w and l alone, then w|l, l|w, l|l and w|w
    ratios = [torch.tensor([value]) for value in (1.0, -0.5, 2.0, -1.0, 0.3, 0.9)]
    assert one(ops.preferences.srpo(*ratios, 0.1, 0.0)) == pytest.approx(0.075625, abs=1e-6)
    assert one(ops.preferences.srpo(*ratios, 0.1, 1.0)) == pytest.approx(0.1025, abs=1e-6)
    assert one(ops.preferences.srpo(*ratios, 0.1, 0.5)) == pytest.approx(0.0890625, abs=1e-6)


def test_calibration_of_scores_that_say_what_they_are():
    margin = math.log(3)  # says 75 %
    right, wrong = [margin] * 75, [-margin] * 25
    assert ops.preferences.calibration_error(torch.tensor(right + wrong)) == pytest.approx(
        0, abs=1e-6
    )
    assert ops.preferences.calibration_error(torch.tensor(right)) == pytest.approx(0.25, abs=1e-6)
    assert ops.preferences.calibration_error(torch.zeros(10)) == 0.0


@pytest.mark.parametrize("scale", [0.0, 1.0, 50.0])
def test_losses_refuse_other_shapes(scale):
    with pytest.raises(ValueError, match="dimensions"):
        ops.preferences.dpo(torch.full((2, 2), scale), 0.1)
