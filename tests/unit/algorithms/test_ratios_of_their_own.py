"""GSPO, CISPO and SAPO: what each puts in the place of a token's clipped ratio."""

import pytest
from online_inputs import micro_inputs

from posttrain.algorithms import cispo, gspo, sapo


def test_gspo_clips_whole_answers():
    # mean of [0.1, -0.3, 0.2, 0.4] is 0.1: s = 1.105171, held to 1.0004; second answer: s = 1
    inputs = micro_inputs(
        [0.1, -0.3, 0.2, 0.4, -1.0], [1.0] * 4 + [-1.0],
        old_logprobs_T=[0.0] * 4 + [-1.0], sequence_T=[0] * 4 + [1],
    )  # fmt: skip
    terms = gspo.loss(inputs, gspo.Config())
    assert terms.total.item() == pytest.approx((-1.0004 + 1.0) / 2, abs=1e-6)
    assert terms.metrics["policy/clip_high_share"].item() == pytest.approx(0.8)
    assert terms.metrics["policy/ratio_mean"].item() == pytest.approx(1.084137, abs=1e-5)
    terms.total.backward()
    assert inputs.logprobs_T.grad.tolist() == pytest.approx([0.0] * 4 + [0.5], abs=1e-6)


def test_cispo_of_the_worked_example():
    # A = 2, log π = -1, log-ratios -1, 0.1, 0.5: w = 0.8, 1.105171, 1.28; losses 2·w
    inputs = micro_inputs([-1.0] * 3, [2.0] * 3, old_logprobs_T=[0.0, -1.1, -1.5])
    terms = cispo.loss(inputs, cispo.Config(clip_low=0.2, clip_high=0.28))
    assert terms.total.item() == pytest.approx((1.6 + 2.210342 + 2.56) / 3, abs=1e-5)
    assert terms.metrics["policy/clip_low_share"].item() == pytest.approx(1 / 3)
    assert terms.metrics["policy/clip_high_share"].item() == pytest.approx(1 / 3)
    terms.total.backward()
    expected = [-2 * w / 3 for w in (0.8, 1.105171, 1.28)]
    assert inputs.logprobs_T.grad.tolist() == pytest.approx(expected, abs=1e-5)


def test_cispo_bounds_from_above_only_by_default():
    # w = e^-3 and e^3 held to 5
    inputs = micro_inputs([-1.0, -1.0], [1.0, 1.0], old_logprobs_T=[2.0, -4.0])
    found = cispo.loss(inputs, cispo.Config()).total.item()
    assert found == pytest.approx((0.049787 + 5.0) / 2, abs=1e-5)


def test_sapo_of_the_worked_example():
    # ratio 1.5: 2.489837 for a good token, 2.393585 for a bad one; each its own answer
    log_ratio = 0.405465108
    inputs = micro_inputs(
        [log_ratio] * 2, [1.0, -1.0], old_logprobs_T=[0.0, 0.0], sequence_T=[0, 1]
    )
    found = sapo.loss(inputs, sapo.Config()).total.item()
    assert found == pytest.approx((-2.489837 + 2.393585) / 2, abs=1e-5)


def test_on_fresh_answers_all_three_have_the_policy_gradient():
    for algorithm in (gspo, cispo, sapo):
        inputs = micro_inputs([-1.0, -2.0], [1.0, -2.0], sequence_T=[0, 1])
        algorithm.loss(inputs, algorithm.Config()).total.backward()
        assert inputs.logprobs_T.grad.tolist() == pytest.approx([-0.5, 1.0], abs=1e-6)
