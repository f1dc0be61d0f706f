import pytest
from online_inputs import LOGPROBS, REFERENCE, batch_inputs, micro_inputs

from posttrain.algorithms import needs_of, remax
from posttrain.ports import Needs


def worked(reward=1.8, greedy=0.5, **others):
    given = {
        "behaviour_logprobs_T": LOGPROBS,
        "reference_logprobs_T": REFERENCE,
        "greedy_rewards_G": [greedy],
        "kl_coefficient": 0.05,
    }
    return batch_inputs([[reward]], [3], **(given | others))


def test_returns_of_the_worked_example_in_the_authors_form():
    # Δ = 1.3; 0.99³·1.3 - 0.05·0.2, 0.99²·1.3 + 0.05·0.1, 0.99·1.3 - 0.05·0.2
    found = remax.advantages(worked(), remax.Config(gamma=0.99))
    assert found.advantages_T.tolist() == pytest.approx([1.251389, 1.279130, 1.277], abs=1e-6)
    # loss: -(ret · log π) / 3
    terms = remax.loss(micro_inputs(LOGPROBS, found.advantages_T.tolist()), remax.Config())
    assert terms.total.item() == pytest.approx(0.720075, abs=1e-6)


def test_returns_with_the_kl_of_later_tokens():
    # token rewards [-0.01, 0.005, 1.79], their sums to the end, minus the greedy 0.5
    found = remax.advantages(worked(), remax.Config(kl_mode="to_go"))
    assert found.advantages_T.tolist() == pytest.approx([1.285, 1.295, 1.290], abs=1e-6)


def test_the_difference_is_clipped_not_the_reward():
    inputs = worked(9.0, 1.0, kl_coefficient=0.0)
    found = remax.advantages(inputs, remax.Config())
    assert found.advantages_T.tolist() == [5.0, 5.0, 5.0]  # clipping the 9 first would give 4
    assert found.metrics["reward/greedy_clip_share"] == 1.0
    assert remax.advantages(inputs, remax.Config(clip_delta=None)).advantages_T[0].item() == 8.0


def test_environment_tokens_earn_nothing_and_are_not_counted():
    # two chosen tokens around one that is not: γ², -, γ
    inputs = worked(1.0, 0.0, kl_coefficient=0.0, mask_T=[1.0, 0.0, 1.0])
    found = remax.advantages(inputs, remax.Config(gamma=0.5))
    assert found.advantages_T.tolist() == [0.25, 0.0, 0.5]


def test_each_prompt_has_its_own_greedy_answer():
    inputs = batch_inputs([[1.0, 0.0], [1.0, 0.5]], [1, 2, 0, 1], greedy_rewards_G=[0.0, 0.5])
    found = remax.advantages(inputs, remax.Config(kl_in_reward=0))
    assert found.advantages_T.tolist() == [1.0, 0.0, 0.0, 0.0]
    assert found.metrics["reward/greedy_tie_share"] == 0.5  # the second and the fourth


def test_on_fresh_answers_the_gradient_is_reinforce_s():
    inputs = micro_inputs([-0.5, -1.0], [2.0, -1.0])
    remax.loss(inputs, remax.Config()).total.backward()
    assert inputs.logprobs_T.grad.tolist() == [-1.0, 0.5]  # -A/2


def test_older_answers_are_weighed_up_to_a_bound():
    # ratios e^0.5 = 1.648721 and e^1 = 2.718282, held to 2; losses 1.648721·0.5 and 2·0.5, halved
    inputs = micro_inputs([-0.5, -0.5], [1.0, 1.0], old_logprobs_T=[-1.0, -1.5])
    terms = remax.loss(inputs, remax.Config())
    assert terms.total.item() == pytest.approx((0.824361 + 1.0) / 2, abs=1e-6)
    assert terms.metrics["policy/clip_high_share"].item() == 0.5
    assert terms.metrics["policy/ratio_mean"].item() == pytest.approx(2.183501, abs=1e-5)
    terms.total.backward()
    assert inputs.logprobs_T.grad.tolist() == pytest.approx([-0.824361, -1.0], abs=1e-6)


@pytest.mark.parametrize(
    ("greedy", "expected"),
    [
        (None, "needs the reward of each prompt's greedy answer"),
        ([1.0, 2.0], "2 greedy rewards, 1 prompts"),
        ([float("nan")], "the greedy answer of prompt 0 is nan"),
    ],
)
def test_greedy_rewards_have_to_fit(greedy, expected):
    with pytest.raises(ValueError, match=expected):
        remax.advantages(worked(greedy_rewards_G=greedy), remax.Config())


def test_needs():
    assert needs_of(remax, remax.Config()) == Needs(greedy=True, reference=True) == remax.NEEDS
    assert needs_of(remax, remax.Config(kl_in_reward=0)) == Needs(greedy=True)
