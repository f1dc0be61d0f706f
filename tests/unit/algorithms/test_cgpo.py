"""CRPG, CRRAFT and CODPO: rewards behind constraints, near the starting model."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from online_inputs import batch_inputs, micro_inputs
from torch.nn.functional import logsigmoid

from posttrain.algorithms import codpo, crpg, crraft, needs_of
from posttrain.errors import StageFailed
from posttrain.ports import Needs

RULES = (crpg, crraft, codpo)
CALIBRATED = 0.731059  # sigmoid(1.5 - 0.5)


def answers(rewards, lengths, drift, violated=None, **others):
    """`drift`: each answer's log-ratio to the reference, all of it on its first token."""
    firsts = [[each] + [0.0] * (n - 1) for each, n in zip(drift, lengths, strict=True) if n]
    reference = [-value for values in firsts for value in values]
    parts = {"judge/short": 1.0 - torch.tensor(violated)} if violated else {}
    return batch_inputs(
        rewards, lengths, reference_logprobs_T=reference, reward_parts=parts, **others
    )


def of(algorithm, inputs, **changes):
    return algorithm.advantages(inputs, algorithm.Config(**changes))


# -- CRPG -----------------------------------------------------------------------------------------


def test_crpg_of_the_worked_example():
    # (1 - 3/10)·0.731059 = 0.511741, a violation 0; their mean 0.255871
    found = of(crpg, answers([[CALIBRATED, 0.0]], [2, 1], [3.0, 0.0], [[0.0, 1.0]]), kl_max=10)
    assert found.advantages_T.tolist() == pytest.approx([0.255871] * 2 + [-0.255871], abs=1e-6)
    assert found.metrics["reward/kl_factor_mean"] == pytest.approx(0.85)


def test_crpg_pays_no_premium_and_charges_no_more_than_all():
    # log-ratios -4, 0, 5, 30: R = 1, 1, 0.5, 0; mean 0.625
    found = of(crpg, answers([[1.0] * 4], [1] * 4, [-4.0, 0.0, 5.0, 30.0]))
    assert found.advantages_T.tolist() == pytest.approx([0.375, 0.375, -0.125, -0.625])


def test_crpg_compares_with_the_batch_not_the_group():
    found = of(crpg, answers([[1.0, 1.0], [0.0, 0.0]], [1] * 4, [0.0] * 4))
    assert found.advantages_T.tolist() == [0.5, 0.5, -0.5, -0.5]


def test_crpg_takes_the_kl_off_what_is_left():
    # 0.7·1 - 0.1·3 = 0.4, and 1; mean 0.7
    found = of(crpg, answers([[1.0, 1.0]], [1, 1], [3.0, 0.0], kl_coefficient=0.1))
    assert found.advantages_T.tolist() == pytest.approx([-0.3, 0.3])


def test_environment_tokens_are_no_drift():
    inputs = answers([[1.0, 1.0]], [2, 1], [8.0, 0.0], mask_T=[0.0, 1.0, 1.0])
    assert of(crpg, inputs).advantages_T.tolist() == [0.0] * 3


def test_crpg_on_fresh_answers_is_reinforce():
    # d/dlogp of -(1/2)·Σ A·Σ_t log π
    micro = micro_inputs([-1.0, -2.0, -0.5], [0.25, 0.25, -0.25], sequence_T=[0, 0, 1])
    crpg.loss(micro, crpg.Config()).total.backward()
    assert micro.logprobs_T.grad.tolist() == pytest.approx([-0.125, -0.125, 0.125])


# -- CRRAFT ---------------------------------------------------------------------------------------


def test_crraft_learns_the_best_that_may_be_learnt():
    # 0.9 has drifted by 12 nats; of the second prompt the first of two equal ones; weights ·K
    rewards, violated = [[0.9, 0.8, 0.7], [0.5, 0.0, 0.5]], [[0.0] * 3, [0.0, 1.0, 0.0]]
    drift = [12.0, 10.0, 1.0, 0.0, 0.0, 0.0]
    found = of(crraft, answers(rewards, [1, 2, 1, 1, 1, 1], drift, violated), kl_max=10)
    assert found.advantages_T.tolist() == pytest.approx([0.0, 2.4, 2.4, 0.0, 1.5, 0.0, 0.0])
    assert found.metrics == pytest.approx(
        {"groups/learnt_share": 1.0, "answer/beyond_kl_max_share": 1 / 6}
    )


@pytest.mark.parametrize(
    ("rewards", "drift", "violated"),
    [
        ([[0.0, 0.0]], [0.0, 0.0], [[1.0, 1.0]]),  # all violate
        ([[0.9, 0.8]], [11.0, 12.0], None),  # all have drifted
        ([[0.0, 0.0]], [0.0, 0.0], None),  # the best earns nothing
    ],
)
def test_crraft_skips_a_prompt_without_an_answer_to_learn(rewards, drift, violated):
    found = of(crraft, answers(rewards, [1, 1], drift, violated))
    assert found.advantages_T.tolist() == [0.0, 0.0]
    assert found.metrics["groups/learnt_share"] == 0.0


def test_crraft_is_a_mean_over_prompts_also_beside_empty_answers():
    # -(0.8·(-1 - 2) + 0)/2: of four answers one is empty, one prompt has none to learn
    inputs = answers([[0.8, 0.2], [0.0, 0.0]], [2, 1, 0, 1], [0.0] * 4, [[0.0] * 2, [1.0] * 2])
    advantages = of(crraft, inputs).advantages_T.tolist()
    micro = micro_inputs([-1.0, -2.0, -5.0, -7.0], advantages, sequence_T=[0, 0, 1, 3])
    terms = crraft.loss(micro, crraft.Config())
    assert terms.total.item() == pytest.approx(1.2, abs=1e-6)
    terms.total.backward()
    assert micro.logprobs_T.grad.tolist() == pytest.approx([-0.4, -0.4, 0.0, 0.0])


def test_crraft_of_one_sample_per_prompt_learns_each_that_may_be_learnt():
    found = of(crraft, answers([[0.6], [0.9], [0.3]], [1, 1, 1], [0.0, 20.0, 0.0]))
    assert found.advantages_T.tolist() == pytest.approx([0.6, 0.0, 0.3])


def test_crraft_weighs_nothing_below_zero():
    found = of(crraft, answers([[0.1, 0.0]], [1, 1], [5.0, 5.0], kl_coefficient=0.1))
    assert found.advantages_T.tolist() == [0.0, 0.0]


# -- CODPO ----------------------------------------------------------------------------------------


def test_codpo_of_the_worked_pair():
    # z = 0.1·(1 + 0.5): 0.1·sigmoid(-0.15) = 0.0462570; λ/|y+| = 0.5; both ·K = 2
    inputs = answers([[0.9, 0.0]], [2, 1], [1.0, -0.5], [[0.0, 1.0]])
    found = of(codpo, inputs)
    assert found.advantages_T.tolist() == pytest.approx([1.092514] * 2 + [-0.092514], abs=1e-6)
    assert found.metrics == pytest.approx(
        {"groups/pair_share": 1.0, "policy/pair_margin_nats": 1.5}
    )
    without = of(codpo, inputs, sft_weight=0.0).advantages_T.tolist()
    assert without == pytest.approx([0.092514] * 2 + [-0.092514], abs=1e-6)


def test_codpo_skips_prompts_without_a_pair():
    rewards, violated = [[0.0, 0.0], [0.5, 0.5]], [[1.0, 1.0], [0.0, 0.0]]
    found = of(codpo, answers(rewards, [1] * 4, [0.0] * 4, violated))
    assert found.advantages_T.tolist() == [0.0] * 4
    assert found.metrics == {"groups/pair_share": 0.0}


def test_codpo_avoids_what_violates_most_and_without_judges_the_lowest():
    held = {"judge/a": torch.tensor([[1.0, 0.0, 0.0]]), "judge/b": torch.tensor([[1.0, 1.0, 0.0]])}
    inputs = answers([[0.9, 0.0, 0.0]], [1] * 3, [0.0] * 3)
    both = dataclasses.replace(inputs, reward_parts=held)
    assert [each > 0 for each in of(codpo, both).advantages_T.tolist()] == [True, False, False]
    assert of(codpo, both).advantages_T.tolist()[1:] == pytest.approx([0.0, -0.15])
    lowest = answers([[0.9, 0.2, 0.4]], [1] * 3, [0.0] * 3)
    assert of(codpo, lowest).advantages_T.tolist()[1:] == pytest.approx([-0.15, 0.0])


def test_judges_of_other_prompts_and_other_parts_violate_nothing():
    """Rewards per source: a judge of one source has nothing to say of the other's answers."""
    held = {
        "judge/a": torch.tensor([[float("nan")] * 2, [1.0, 0.0]]),
        "short/judge/b": torch.zeros(2, 2),  # a judge inside a judge
        "format": torch.zeros(2, 2),
    }
    inputs = answers([[0.9, 0.2], [0.9, 0.9]], [1] * 4, [0.0] * 4)
    found = of(codpo, dataclasses.replace(inputs, reward_parts=held), sft_weight=0.0)
    assert found.advantages_T.tolist() == pytest.approx([0.1, -0.1, 0.1, -0.1])


def test_codpo_s_clip_ends_the_push_once_an_answer_has_moved():
    # Twice as likely and half as likely as when sampled: both are beyond the clip
    micro = micro_inputs([0.7, -0.7], [1.0, -1.0], old_logprobs_T=[0.0, 0.0], sequence_T=[0, 1])
    codpo.loss(micro, codpo.Config()).total.backward()
    assert micro.logprobs_T.grad.tolist() == [0.0, 0.0]


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6))
def test_codpo_has_the_gradient_of_dpo_however_pairs_are_cut_apart(seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(high, count):
        return torch.randint(high, (count,), generator=generator).tolist()

    groups, samples = draw(3, 1)[0] + 1, draw(3, 1)[0] + 2
    lengths = draw(4, groups * samples)  # some are empty
    total = sum(lengths)
    logprobs, reference = torch.randn(2, total, generator=generator)
    mask = (torch.rand(total, generator=generator) < 0.8).float()
    rewards = torch.tensor(draw(4, groups * samples)).view(groups, samples) / 4
    violated = (torch.rand(groups, samples, generator=generator) < 0.4).float()
    config = codpo.Config(beta=0.3, sft_weight=0.7)
    inputs = batch_inputs(
        rewards.tolist(), lengths, mask_T=mask, behaviour_logprobs_T=logprobs,
        reference_logprobs_T=reference, reward_parts={"judge/a": 1.0 - violated},
    )  # fmt: skip
    sequence = [at for at, length in enumerate(lengths) for _ in range(length)]
    micro = micro_inputs(
        logprobs.tolist(), codpo.advantages(inputs, config).advantages_T.tolist(),
        mask_T=mask.tolist(), sequence_T=sequence,
    )  # fmt: skip
    leaf = logprobs.clone().requires_grad_()
    expected = dpo(leaf, reference, mask, sequence, rewards, violated, config)
    expected_T = torch.autograd.grad(expected, leaf, allow_unused=True)[0]
    expected_T = torch.zeros(total) if expected_T is None else expected_T
    for pieces in ([micro], alone(micro)):
        micro.logprobs_T.grad = None
        for piece in pieces:
            codpo.loss(piece, config).total.backward()
        found_T = micro.logprobs_T.grad
        found_T = torch.zeros(total) if found_T is None else found_T
        torch.testing.assert_close(found_T, expected_T, atol=1e-6, rtol=1e-5)


def dpo(logprobs_T, reference_T, mask_T, sequence, rewards_GK, violated_GK, config):
    """As the paper has it: pairs chosen one by one, the loss of both answers at once."""
    groups, samples = rewards_GK.shape
    own = torch.tensor(sequence, dtype=torch.long)
    total = (logprobs_T * 0.0).sum()
    for group in range(groups):
        rewards, violated = rewards_GK[group].tolist(), violated_GK[group].tolist()
        good = [i for i in range(samples) if not violated[i]]
        wrong = [i for i in range(samples) if violated[i]] or good
        if not good:
            continue
        plus = max(good, key=lambda i: rewards[i])
        minus = min(wrong, key=lambda i: rewards[i])
        if wrong is good and rewards[plus] == rewards[minus]:
            continue

        def said(values_T, answer, group=group):
            return (values_T * mask_T)[own == group * samples + answer].sum()

        margin = said(logprobs_T - reference_T, plus) - said(logprobs_T - reference_T, minus)
        length = said(torch.ones_like(mask_T), plus).clamp(min=1)
        likelihood = config.sft_weight / length * said(logprobs_T, plus)
        total = total - (logsigmoid(config.beta * margin) + likelihood) / groups
    return total


def alone(micro):
    """Each answer in a micro-batch of its own, with the whole batch's denominators."""
    pieces = []
    for answer in range(micro.num_sequences):
        where = micro.sequence_T == answer
        cut = {
            field.name: getattr(micro, field.name)[where]
            for field in dataclasses.fields(micro)
            if field.name.endswith("_T") and getattr(micro, field.name) is not None
        }
        cut["sequence_T"] = torch.zeros_like(cut["sequence_T"])
        pieces.append(dataclasses.replace(micro, num_sequences=1, **cut))
    return pieces


# -- all three ------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", [crpg, crraft])
def test_negative_rewards_are_refused_where_they_are_multiplied(algorithm):
    with pytest.raises(StageFailed, match=r"the reward of sample 1 of prompt 0 is -0\.5") as raised:
        of(algorithm, answers([[1.0, -0.5]], [1, 1], [0.0, 0.0]))
    assert "name: calibrated" in raised.value.help


def test_codpo_knows_only_the_order_of_rewards():
    low, high = ([[-3.0, -1.0]], [[1.0, 2.0]])
    found = [
        of(codpo, answers(each, [1, 1], [0.0] * 2)).advantages_T.tolist() for each in (low, high)
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize("algorithm", RULES)
def test_the_reference_is_needed_in_any_case(algorithm):
    assert needs_of(algorithm, algorithm.Config()) == algorithm.NEEDS
    assert Needs(groups=algorithm is codpo, reference=True) == algorithm.NEEDS
    with pytest.raises(ValueError, match="but no reference log-probs were given"):
        of(algorithm, batch_inputs([[1.0, 0.0]], [1, 1]))


@pytest.mark.parametrize("algorithm", RULES)
def test_where_all_violate_nothing_is_learnt(algorithm):
    inputs = answers([[0.0] * 3, [0.0] * 3], [1, 0, 2] * 2, [0.5] * 6, [[1.0] * 3] * 2)
    assert of(algorithm, inputs).advantages_T.tolist() == [0.0] * 6
