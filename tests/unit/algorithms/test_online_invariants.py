"""What every online algorithm that ships keeps to, whatever its formula."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import get_args

import pytest
import torch
from online_inputs import batch_inputs, micro_inputs

from posttrain.algorithms import needs_of
from posttrain.config.optimiser import OptimiserConfig
from posttrain.config.plugins import algorithm_mode, shipped
from posttrain.config.policy_gradient import Aggregation
from posttrain.ports import LossInputs

ALL = {
    name: importlib.import_module(f"posttrain.algorithms.{name}") for name in shipped("algorithm")
}
ONLINE = {name: module for name, module in ALL.items() if algorithm_mode(module) == "online"}
WITHOUT_KL = {"kl_in_reward": 0}
MEASURED = {"codpo", "crpg", "crraft"}  # their formulas have an answer's distance to the reference
GROUPED = [
    name for name, module in ONLINE.items() if needs_of(module, module.Config(**WITHOUT_KL)).groups
]
LENGTHS = [3, 0, 2, 4, 1, 2, 3, 1]
TOTAL = sum(LENGTHS)


@pytest.fixture(params=ONLINE)
def algorithm(request):
    return ONLINE[request.param]


def without_kl(algorithm, **settings):
    return algorithm.Config(**WITHOUT_KL, **settings)


def plain_batch(rewards=None, lengths=LENGTHS, **others):
    """Two prompts with four answers, one of them empty; as likely as under the reference."""
    rewards = [[1.0, 0.0, 0.5, 0.0], [1.0, 1.0, 0.0, 1.0]] if rewards is None else rewards
    given = {
        "values_T": [0.25] * sum(lengths),
        "greedy_rewards_G": [0.5] * len(rewards),
        "cut_B": [False] * len(lengths),
        "max_new_tokens": 64,
        "reference_logprobs_T": [0.0] * sum(lengths),
    }
    return batch_inputs(rewards, lengths, **(given | others))


def random_micro(lengths, **others):
    """Answers that are neither fresh nor whole, with values and a reference."""
    generator = torch.Generator().manual_seed(sum(lengths))
    total = sum(lengths)
    logprobs, old, reference, advantages, values, targets = torch.randn(
        6, total, generator=generator
    ).tolist()
    given = {
        "old_logprobs_T": old,
        "reference_logprobs_T": reference,
        "mask_T": (torch.rand(total, generator=generator) < 0.8).float().tolist(),
        "sequence_T": [at for at, length in enumerate(lengths) for _ in range(length)],
        "values_T": values,
        "old_values_T": targets,
        "returns_T": advantages,
    }
    return micro_inputs(logprobs, advantages, **(given | others))


def test_there_are_thirteen():
    assert len(ONLINE) == 13
    assert set(ONLINE) - set(GROUPED) == {"crpg", "crraft", "ppo", "reinforce_pp", "remax"}


def test_the_documentation_knows_each_with_its_settings():
    page = (Path(__file__).parents[3] / "docs/algorithms.md").read_text(encoding="utf-8")
    for name, module in ONLINE.items():
        own = set(module.Config.model_fields) - set(OptimiserConfig.model_fields)
        missing = {key for key in (name, *own) if f"`{key}" not in page}
        assert missing == set(), (name, missing)


# -- advantages -----------------------------------------------------------------------------------


def test_advantages_are_one_number_per_token_and_constants(algorithm):
    inputs = plain_batch(kl_coefficient=0.1, reference_logprobs_T=[-1.0] * TOTAL)
    found = algorithm.advantages(inputs, algorithm.Config())
    assert found.advantages_T.shape == (TOTAL,)
    assert found.advantages_T.isfinite().all() and not found.advantages_T.requires_grad
    assert (found.returns_T is not None) == needs_of(algorithm, algorithm.Config()).critic


@pytest.mark.parametrize("name", GROUPED)
def test_equal_rewards_teach_nothing_where_a_group_is_the_baseline(name):
    algorithm, config = ONLINE[name], without_kl(ONLINE[name])
    inputs = plain_batch([[0.7] * 4, [1.0] * 4])
    advantages = algorithm.advantages(inputs, config).advantages_T.tolist()
    assert advantages == [0.0] * TOTAL
    micro = micro_inputs([-1.0] * TOTAL, advantages)
    algorithm.loss(micro, config).total.backward()
    assert micro.logprobs_T.grad.tolist() == [0.0] * TOTAL


def test_a_group_of_one_is_refused_where_a_group_is_the_baseline(algorithm):
    config = without_kl(algorithm)
    inputs = plain_batch([[1.0]], [2])
    if needs_of(algorithm, config).groups:
        with pytest.raises(ValueError, match="two or more"):
            algorithm.advantages(inputs, config)
    else:
        assert algorithm.advantages(inputs, config).advantages_T.isfinite().all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_reward_that_is_no_number_is_named(algorithm, value):
    inputs = plain_batch([[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, value, 1.0]])
    expected = f"the reward of sample 2 of prompt 1 is {value}"
    with pytest.raises(ValueError, match=expected):
        algorithm.advantages(inputs, without_kl(algorithm))


def test_rewards_of_the_wrong_number_are_refused(algorithm):
    inputs = plain_batch([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    with pytest.raises(ValueError, match="6 rewards for 8 answers"):
        algorithm.advantages(inputs, without_kl(algorithm))


def test_nothing_chosen_and_nothing_said_give_numbers(algorithm):
    config = without_kl(algorithm)
    masked = plain_batch(mask_T=[0.0] * TOTAL)
    assert algorithm.advantages(masked, config).advantages_T.isfinite().all()
    silent = plain_batch(lengths=[0] * 8)
    assert algorithm.advantages(silent, config).advantages_T.tolist() == []


def test_kl_in_the_reward_needs_reference_logprobs(algorithm):
    inputs = plain_batch(kl_coefficient=0.1, reference_logprobs_T=None)
    with pytest.raises(ValueError, match="but no reference log-probs were given"):
        algorithm.advantages(inputs, algorithm.Config())


def test_kl_in_the_reward_lowers_what_drifted(algorithm):
    """Of two right answers, the one that the starting model finds unlikely gets less."""
    inputs = plain_batch([[1.0, 1.0]], [1, 1], kl_coefficient=0.1, reference_logprobs_T=[0.0, -3.0])
    config = algorithm.Config(kl_in_reward=0.1)
    near, far = algorithm.advantages(inputs, config).advantages_T.tolist()
    assert near > far


def test_a_reference_is_needed_only_with_a_kl_or_a_distance(algorithm):
    is_measured = algorithm.__name__.rpartition(".")[2] in MEASURED
    assert needs_of(algorithm, without_kl(algorithm)).reference == is_measured
    for settings in ({"kl_in_reward": 0.1}, {"kl_in_reward": 0, "kl_in_loss": 0.1}):
        assert needs_of(algorithm, algorithm.Config(**settings)).reference


# -- losses ---------------------------------------------------------------------------------------


def test_on_fresh_answers_the_gradient_is_the_policy_gradient(algorithm):
    advantages = [1.0, -0.5, 2.0, 0.0]
    others = {each: [0.0] * 4 for each in ("values_T", "old_values_T", "returns_T")}
    micro = micro_inputs([-1.0, -2.0, -0.5, -3.0], advantages, sequence_T=[0, 0, 1, 1], **others)
    algorithm.loss(micro, without_kl(algorithm, aggregation="token-mean")).policy.backward()
    assert micro.logprobs_T.grad.tolist() == pytest.approx([-a / 4 for a in advantages], abs=1e-6)


def test_the_policy_loss_is_proportional_to_the_advantages(algorithm):
    """Each token's, so that a weight on its advantage is a weight on its loss."""
    inputs = random_micro([5, 3])
    weights = torch.tensor([1.2, 0.9, 0.0, 3.0, 0.5, 1.0, 2.0, 0.1])
    config = without_kl(algorithm, aggregation="token-mean")

    def policy(advantages):
        changed = dataclasses.replace(inputs, advantages_T=advantages)
        return algorithm.loss(changed, config).policy.item()

    each = torch.eye(8) * inputs.advantages_T
    alone = torch.tensor([policy(row) for row in each])
    expected = float((weights * alone).sum())
    assert policy(inputs.advantages_T * weights) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("mode", get_args(Aggregation))
def test_micro_batches_add_up_to_the_whole(algorithm, mode):
    config = without_kl(algorithm, aggregation=mode, kl_in_loss=0.1)
    whole = random_micro([3, 1, 4, 0, 2, 5])
    cut = 4  # tokens of the first two answers
    parts = [_part(whole, slice(0, cut), 0, 2), _part(whole, slice(cut, None), 2, 4)]
    expected = algorithm.loss(whole, config)
    found = [algorithm.loss(part, config) for part in parts]
    for name in ("policy", "kl", "value", "total"):
        if getattr(expected, name) is not None:
            total = sum(getattr(each, name).item() for each in found)
            assert total == pytest.approx(getattr(expected, name).item(), abs=1e-5), name
    for name, value in expected.metrics.items():
        total = sum(each.metrics[name].item() for each in found)
        assert total == pytest.approx(value.item(), abs=1e-5), name


def _part(whole: LossInputs, where: slice, first: int, count: int) -> LossInputs:
    """Some of the answers, with the whole batch's denominators."""
    cut = {
        field.name: getattr(whole, field.name)[where]
        for field in dataclasses.fields(whole)
        if field.name.endswith("_T") and getattr(whole, field.name) is not None
    }
    cut["sequence_T"] = cut["sequence_T"] - first
    return dataclasses.replace(whole, num_sequences=count, **cut)


def test_masked_tokens_and_empty_batches_have_no_gradient(algorithm):
    config = without_kl(algorithm, kl_in_loss=0.1)
    masked = random_micro([2, 3], mask_T=[0.0] * 5)
    terms = algorithm.loss(masked, config)
    terms.total.backward()
    assert terms.total.item() == 0.0
    assert masked.logprobs_T.grad.tolist() == [0.0] * 5
    assert algorithm.loss(random_micro([0, 0]), config).total.item() == 0.0


def test_kl_in_the_loss_is_beta_times_k3(algorithm):
    # d = [0.2, -0.1, 0.2]: 0.1·(0.018731 + 0.005171 + 0.018731)/3
    inputs = random_micro(
        [3], mask_T=[1.0] * 3, reference_logprobs_T=[-0.7, -0.9, -0.4], advantages_T=[0.0] * 3
    )
    inputs = dataclasses.replace(inputs, logprobs_T=torch.tensor([-0.5, -1.0, -0.2]))
    config = without_kl(algorithm, aggregation="token-mean", kl_in_loss=0.1)
    terms = algorithm.loss(inputs, config)
    assert terms.kl is not None and terms.kl.item() == pytest.approx(0.00142110, abs=1e-7)
    with pytest.raises(ValueError, match="no reference log-probs"):
        algorithm.loss(dataclasses.replace(inputs, reference_logprobs_T=None), config)


def test_kl_times_ratio(algorithm):
    # ratio 1.2, d = 0.2: 1.2·(exp(-0.2) - 1 + 0.2) = 0.022477
    inputs = random_micro(
        [1], mask_T=[1.0], old_logprobs_T=[-0.5 - 0.182321557], reference_logprobs_T=[-0.7]
    )
    inputs = dataclasses.replace(inputs, logprobs_T=torch.tensor([-0.5]))
    terms = algorithm.loss(inputs, without_kl(algorithm, kl_in_loss=1.0, kl_times_ratio=True,
                                              aggregation="token-mean"))  # fmt: skip
    assert terms.kl is not None and terms.kl.item() == pytest.approx(0.022477, abs=1e-6)
