"""RLOO, REINFORCE++, Dr. GRPO and DAPO: what each makes of a group's rewards, and its loss."""

import pytest
from online_inputs import LOGPROBS, REFERENCE, batch_inputs, micro_inputs
from pydantic import ValidationError

from posttrain.algorithms import dapo, dr_grpo, grpo, needs_of, reinforce_pp, rloo
from posttrain.ports import Needs

WORKED = [[1.0, 0.0, 0.0, 1.0]]


def of(algorithm, inputs, **settings):
    return algorithm.advantages(inputs, algorithm.Config(**settings)).advantages_T.tolist()


def test_leave_one_out_of_the_worked_example():
    # 1 - (0 + 0 + 1)/3, 0 - 2/3
    found = of(rloo, batch_inputs(WORKED, [1, 1, 1, 1]))
    assert found == pytest.approx([0.666667, -0.666667, -0.666667, 0.666667], abs=1e-6)


def test_leave_one_out_charges_the_whole_answer_s_kl():
    # Σ k1 of the first answer is 0.3, of the second 0: R = [1 - 0.05·0.3, 1]
    inputs = batch_inputs(
        [[1.0, 1.0]], [3, 1], behaviour_logprobs_T=[*LOGPROBS, 0.0],
        reference_logprobs_T=[*REFERENCE, 0.0], kl_coefficient=0.05,
    )  # fmt: skip
    assert of(rloo, inputs) == pytest.approx([-0.015] * 3 + [0.015], abs=1e-6)


def test_leave_one_out_s_loss_sums_each_answer():
    # (-1 - 1) and 0.5, over two answers
    inputs = micro_inputs([-1.0, -1.0, -1.0], [1.0, 1.0, -0.5], sequence_T=[0, 0, 1])
    assert rloo.loss(inputs, rloo.Config()).total.item() == pytest.approx(-0.75, abs=1e-6)


def test_dr_grpo_neither_scales_nor_divides_by_length():
    inputs = batch_inputs(WORKED, [1, 2, 0, 1])
    assert of(dr_grpo, inputs) == [0.5, -0.5, -0.5, 0.5]
    micro = micro_inputs([-1.0, -1.0, -1.0], [1.0, 1.0, -0.5], sequence_T=[0, 0, 1])
    # as above, by max_new_tokens = 8
    found = dr_grpo.loss(micro, dr_grpo.Config()).total.item()
    assert found == pytest.approx(-0.75 / 8, abs=1e-6)


def test_reinforce_pp_returns_of_the_worked_example_before_whitening():
    # 1 - 0.01·[0.3, 0.1, 0.2] = [0.997, 0.999, 0.998]: mean 0.998, unbiased std 0.001,
    # (x - 0.998)/√(1e-6 + 1e-8)
    inputs = batch_inputs(
        [[1.0]], [3], behaviour_logprobs_T=LOGPROBS, reference_logprobs_T=REFERENCE,
        kl_coefficient=0.01,
    )  # fmt: skip
    found = of(reinforce_pp, inputs)
    assert found == pytest.approx([-0.995037, 0.995037, 0.0], abs=1e-3)


def test_reinforce_pp_discounts_from_the_end():
    # returns 0.25, 0.5, 1 and 0: mean 0.4375, unbiased std √(0.546875/3) = 0.426956
    inputs = batch_inputs([[1.0], [0.0]], [3, 1])
    found = of(reinforce_pp, inputs, gamma=0.5)
    assert found == pytest.approx([-0.439156, 0.146385, 1.317467, -1.024697], abs=1e-5)


def test_reinforce_pp_with_a_group_baseline():
    # Centred: [0.75, -0.25, -0.25, -0.25], [0.5, -0.5, 0.5, -0.5]; mean 0, unbiased var 1.75/7
    rewards = [[1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 1.0, 0.0]]
    found = of(reinforce_pp, batch_inputs(rewards, [1] * 8), baseline="group")
    assert found == pytest.approx([1.5, -0.5, -0.5, -0.5, 1, -1, 1, -1], abs=1e-5)
    with pytest.raises(ValueError, match="two or more"):
        of(reinforce_pp, batch_inputs([[1.0]], [1]), baseline="group")


def test_reinforce_pp_needs_groups_only_for_their_baseline():
    assert needs_of(reinforce_pp, reinforce_pp.Config()) == Needs(reference=True)
    group = reinforce_pp.Config(baseline="group", kl_in_reward=0, kl_in_loss=0.001)
    assert needs_of(reinforce_pp, group) == Needs(groups=True, reference=True)
    with pytest.raises(ValidationError, match="`gamma` would do nothing"):
        reinforce_pp.Config(baseline="group", gamma=0.9)


def test_dapo_punishes_answers_near_the_limit():
    # limit 10, the last 4 tokens: 8 tokens cost 0.5, 10 cost 1: rewards [1, 0.5, 0, -1]
    inputs = batch_inputs([[1.0, 1.0, 0.0, 0.0]], [1, 8, 6, 10], max_new_tokens=10)
    found = dapo.advantages(inputs, dapo.Config(overlong_share=0.4))
    # mean 0.125, unbiased std 0.853913
    first_of_each = [found.advantages_T[at].item() for at in (0, 1, 9, 15)]
    assert first_of_each == pytest.approx([1.024694, 0.439155, -0.146385, -1.317463], abs=1e-5)
    assert found.metrics["reward/overlong_mean"] == pytest.approx(-0.375)


def test_dapo_masks_cut_answers_but_counts_them_in_their_group():
    inputs = batch_inputs(WORKED, [1, 1, 1, 1], cut_B=[False, True, False, False])
    found = of(dapo, inputs, overlong="mask")
    assert found == pytest.approx([0.866024, 0.0, -0.866024, 0.866024], abs=1e-6)
    with pytest.raises(ValueError, match="cut_B"):
        of(dapo, batch_inputs(WORKED, [1, 1, 1, 1]), overlong="mask")


def test_dapo_needs_the_limit_to_punish():
    with pytest.raises(ValueError, match="max_new_tokens is 0"):
        of(dapo, batch_inputs(WORKED, [1, 1, 1, 1]))
    with pytest.raises(ValidationError, match="`overlong_share` would do nothing"):
        dapo.Config(overlong="none", overlong_share=0.1)


def test_dapo_clips_higher_and_weighs_every_token_the_same():
    # A = 1, ratio 1.349859: -1.28; then two tokens of ratio 1: (-1.28 - 1 + 1) / 3
    inputs = micro_inputs(
        [0.3, 0.0, 0.0], [1.0, 1.0, -1.0], old_logprobs_T=[0.0] * 3, sequence_T=[0, 1, 1]
    )
    found = dapo.loss(inputs, dapo.Config()).total.item()
    assert found == pytest.approx(-1.28 / 3, abs=1e-6)


def test_grpo_scaled_by_the_batch():
    # Eight rewards, mean 0.5: unbiased std √(2/7) = 0.534522
    rewards = [[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 0.0, 0.0]]
    found = of(grpo, batch_inputs(rewards, [1] * 8), scale="batch")
    assert found[:2] == pytest.approx([0.935413, -0.935413], abs=1e-5)
