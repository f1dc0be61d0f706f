"""Our advantages and losses beside verl's (0.9.1), on random answers: value and gradient.

verl is no dependency; this runs where it can be imported, and skips saying so elsewhere. To run it:
unpack the wheels of verl, tensordict, pyvers, orjson and codetiming into one folder and put
that on PYTHONPATH. They agree to rounding, with these differences:

- GAE: verl leaves values and advantages at an environment's tokens, we put 0; both are masked.
- A group of one: verl takes the reward itself for the advantage, we refuse it.
- ReMax: verl's is `kl_mode: to_go` with `clip_delta` empty; the authors' form is our default.
- k3: verl holds the result to 10 too, which takes the gradient away beyond; here d stays below.
- PPO: verl always clips dually (3); here it is `dual_clip: 3`.
- GSPO: verl holds the exponent to 10 from above, we from below as well.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from online_inputs import batch_inputs, micro_inputs, packed, padded

from posttrain import ops
from posttrain.algorithms import (
    cispo,
    dapo,
    dr_grpo,
    grpo,
    gspo,
    ppo,
    reinforce_pp,
    remax,
    rloo,
    sapo,
)

verl = pytest.importorskip(
    "verl.trainer.ppo.core_algos", reason="verl is not installed (it is no dependency)"
)

LENGTHS = [3, 0, 5, 1, 4, 2, 3, 4]
INDEX = np.array([0, 0, 0, 0, 1, 1, 1, 1])
BETA = 0.05
TOTAL = sum(LENGTHS)
MASK = torch.ones(TOTAL)
MASK[[4, 5, 10]] = 0.0  # an environment's tokens, never an answer's last
MASK_BL = padded(MASK, LENGTHS)


def random_batch(**others):
    generator = torch.Generator().manual_seed(11)
    behaviour, reference, values = torch.randn(3, TOTAL, generator=generator) * 0.5
    given = {
        "mask_T": MASK,
        "behaviour_logprobs_T": behaviour,
        "reference_logprobs_T": reference,
        "values_T": values,
        "kl_coefficient": BETA,
        "greedy_rewards_G": torch.tensor([0.5, 0.25]),
        "max_new_tokens": 64,
    }
    rewards = torch.randn(2, 4, generator=generator).tolist()
    return batch_inputs(rewards, LENGTHS, **(given | others))


def token_rewards(inputs):
    """[B, L] as verl makes them: the score on the last token, then the KL taken off."""
    scores_BL = torch.zeros_like(MASK_BL)
    for row, length in enumerate(LENGTHS):
        if length:
            scores_BL[row, length - 1] = inputs.rewards_GK.flatten()[row]
    behaviour_BL = padded(inputs.behaviour_logprobs_T, LENGTHS)
    reference_BL = padded(inputs.reference_logprobs_T, LENGTHS)
    return (scores_BL - inputs.kl_coefficient * (behaviour_BL - reference_BL)) * MASK_BL


def same(found_T, expected_BL):
    """At the tokens that the policy chose."""
    expected_T = packed(expected_BL, LENGTHS)
    torch.testing.assert_close(found_T * MASK, expected_T * MASK, atol=2e-5, rtol=1e-4)


def test_token_rewards():
    inputs = random_batch()
    kl_T = ops.kl.k1(inputs.behaviour_logprobs_T, inputs.reference_logprobs_T)
    found = ops.returns.token_rewards(
        inputs.rewards_GK.flatten(), kl_T, BETA, inputs.lengths_B, inputs.mask_T
    )
    same(found, token_rewards(inputs))


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(1.0, 0.95), (0.9, 1.0), (0.99, 0.5)])
def test_ppo_advantages(gamma, gae_lambda):
    inputs = random_batch()
    values_BL = padded(inputs.values_T, LENGTHS)
    expected, returns = verl.compute_gae_advantage_return(
        token_rewards(inputs), values_BL, MASK_BL, gamma, gae_lambda
    )
    config = ppo.Config(gamma=gamma, gae_lambda=gae_lambda)
    found = ppo.advantages(inputs, config)
    same(found.advantages_T, expected)
    same(found.returns_T, returns)


@pytest.mark.parametrize(
    ("algorithm", "settings", "name", "theirs"),
    [
        (grpo, {}, "compute_grpo_outcome_advantage", {}),
        (gspo, {}, "compute_grpo_outcome_advantage", {}),
        (
            dr_grpo,
            {},
            "compute_grpo_outcome_advantage",
            {"norm_adv_by_std_in_grpo": False},
        ),
        (rloo, {}, "compute_rloo_outcome_advantage", {}),
        (
            reinforce_pp,
            {"baseline": "group"},
            "compute_reinforce_plus_plus_baseline_outcome_advantage",
            {},
        ),
    ],
)
def test_group_advantages(algorithm, settings, name, theirs):
    # verl loses the score of an answer without a token; ours counts it in the group.
    inputs = random_batch()
    inputs.rewards_GK[0, 1] = 0.0
    expected, _ = getattr(verl, name)(token_rewards(inputs), MASK_BL, INDEX, **theirs)
    same(algorithm.advantages(inputs, algorithm.Config(**settings)).advantages_T, expected)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_reinforce_pp_advantages(gamma):
    inputs = random_batch()
    config = verl.AlgoConfig(gamma=gamma)
    expected, _ = verl.compute_reinforce_plus_plus_outcome_advantage(
        token_rewards(inputs), MASK_BL, config
    )
    found = reinforce_pp.advantages(inputs, reinforce_pp.Config(gamma=gamma))
    same(found.advantages_T, expected)


def test_remax_advantages_with_the_kl_to_go():
    inputs = random_batch()
    greedy_B = inputs.greedy_rewards_G.repeat_interleave(4)
    expected, _ = verl.compute_remax_outcome_advantage(token_rewards(inputs), greedy_B, MASK_BL)
    config = remax.Config(kl_mode="to_go", clip_delta=None)
    same(remax.advantages(inputs, config).advantages_T, expected)


def random_micro():
    generator = torch.Generator().manual_seed(13)
    logprobs, noise, advantages, values, moved, returns = torch.randn(6, TOTAL, generator=generator)
    return micro_inputs(
        logprobs.tolist(),
        advantages.tolist(),
        old_logprobs_T=logprobs + noise,
        mask_T=MASK.tolist(),
        sequence_T=[at for at, length in enumerate(LENGTHS) for _ in range(length)],
        values_T=(values + 0.3 * moved).requires_grad_(),
        old_values_T=values,
        returns_T=returns,
    )


@pytest.mark.parametrize(
    ("algorithm", "settings", "name", "theirs"),
    [
        (ppo, {"dual_clip": 3}, "vanilla", {}),
        (grpo, {"dual_clip": 3}, "vanilla", {}),
        (dapo, {"dual_clip": 3}, "vanilla", {"clip_ratio_high": 0.28}),
        (dr_grpo, {"dual_clip": 3}, "vanilla", {}),
        (rloo, {"dual_clip": 1.5}, "vanilla", {"clip_ratio_c": 1.5}),
        (gspo, {}, "gspo", {"clip_ratio_low": 3e-4, "clip_ratio_high": 4e-4}),
        (
            gspo,
            {"clip_low": 0.3, "clip_high": 0.3},
            "gspo",
            {"clip_ratio_low": 0.3, "clip_ratio_high": 0.3},
        ),
        (
            cispo,
            {"clip_low": 0.2, "clip_high": 0.28},
            "cispo",
            {"clip_ratio_low": 0.2, "clip_ratio_high": 0.28},
        ),
        (sapo, {}, "sapo", {"tau_pos": 1.0, "tau_neg": 1.05}),
    ],
)
def test_policy_losses(algorithm, settings, name, theirs):
    inputs, config = random_micro(), algorithm.Config(**settings)
    given = {"clip_ratio": 0.2, "clip_ratio_low": 0.2, "clip_ratio_high": 0.2} | theirs
    actor = verl.ActorConfig(strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, **given)
    expected, _ = verl.get_policy_loss_fn(name)(
        padded(inputs.old_logprobs_T, LENGTHS),
        padded(inputs.logprobs_T, LENGTHS),
        padded(inputs.advantages_T, LENGTHS),
        MASK_BL,
        config.aggregation,
        actor,
    )
    if config.aggregation == "seq-mean-token-sum-norm":
        expected = expected * MASK_BL.shape[1] / inputs.max_new_tokens  # verl's: the longest row
    found = algorithm.loss(inputs, config).policy
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)
    gradients = [torch.autograd.grad(loss, inputs.logprobs_T)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-5)


def test_value_loss():
    inputs = random_micro()
    values_BL, old_BL, returns_BL = (
        padded(each, LENGTHS) for each in (inputs.values_T, inputs.old_values_T, inputs.returns_T)
    )
    expected, _ = verl.compute_value_loss(values_BL, returns_BL, old_BL, MASK_BL, 0.2)
    found = ppo.loss(inputs, ppo.Config(value_weight=1.0)).value
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)
    gradients = [torch.autograd.grad(loss, inputs.values_T)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "k3+", "abs"])
def test_kl_estimators(estimator):
    generator = torch.Generator().manual_seed(17)
    logprobs, reference = 0.5 * torch.randn(2, 50, generator=generator)
    logprobs.requires_grad_()
    found = ops.kl.estimate(estimator, logprobs, reference)
    expected = verl.kl_penalty(logprobs, reference, estimator)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    gradients = [torch.autograd.grad(each.sum(), logprobs)[0] for each in (found, expected)]
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-5)


def test_the_adaptive_coefficient():
    theirs = verl.AdaptiveKLController(0.2, 6.0, 10_000)
    ours = 0.2
    for kl_nats in (9.0, 6.3, 5.0, 0.1):
        theirs.update(kl_nats, 256)
        ours = ops.kl.adapted_coefficient(ours, kl_nats, 6.0, 10_000, 256)
        assert ours == pytest.approx(theirs.value, rel=1e-12)
