"""Our losses beside TRL's (1.16), on random answers that are not fresh: value and gradient.

TRL's maths is a method, called here on a stand-in that has what the method reads. They agree to
rounding, with these differences:

- TRL's mean over answers counts those without a token, ours does not. The batches here have none.
- RLOO: TRL's ratio is of the whole answer, ours is the token's. On fresh answers the gradients are
  the same; the values are not (TRL's is the mean advantage, ours counts it once per token).
- CISPO: TRL's `epsilon_high` is the largest weight, ours is by how much it may pass 1.
- TRL adds 1e-4 to standard deviations, we add 1e-6 as verl does.
- TRL's k3 is not clamped; ours holds the exponent to ±20.
"""

from __future__ import annotations

import importlib
import types
from collections import defaultdict

import pytest
import torch
from online_inputs import micro_inputs, packed, padded

from posttrain import ops
from posttrain.algorithms import cispo, dapo, dr_grpo, grpo, gspo, rloo, sapo

pytestmark = pytest.mark.slow  # importing TRL's trainers imports vLLM

LENGTHS = [3, 5, 1, 4]
LIMIT = 8


@pytest.fixture(scope="module")
def grpo_trainer():
    return importlib.import_module("trl.trainer.grpo_trainer")


@pytest.fixture(scope="module")
def rloo_trainer():
    return importlib.import_module("trl.trainer.rloo_trainer")


def random_answers(*, fresh=False):
    """Advantages are the same on all tokens of an answer, as TRL has them."""
    generator = torch.Generator().manual_seed(2)
    total = sum(LENGTHS)
    logprobs, noise, reference = torch.randn(3, total, generator=generator) * 0.4
    advantages = torch.tensor([1.0, -0.7, 0.4, -1.3]).repeat_interleave(torch.tensor(LENGTHS))
    mask = torch.ones(total)
    mask[4] = 0.0  # an environment's token
    return micro_inputs(
        logprobs.tolist(),
        advantages.tolist(),
        old_logprobs_T=logprobs if fresh else logprobs + 2 * noise,
        reference_logprobs_T=reference,
        mask_T=mask.tolist(),
        sequence_T=[at for at, length in enumerate(LENGTHS) for _ in range(length)],
        max_new_tokens=LIMIT,
    )


def trainer(inputs, loss_type, low, high, **changes):
    logprobs_BL = padded(inputs.logprobs_T, LENGTHS)
    arguments = types.SimpleNamespace(
        use_bias_correction_kl=changes.pop("kl_times_ratio", False),
        delta=None,
        sapo_temperature_pos=1.0,
        sapo_temperature_neg=1.05,
        steps_per_generation=1,
    )
    accelerator = types.SimpleNamespace(
        num_processes=1, reduce=lambda x, reduction: x, gather=lambda x: x
    )
    given = {
        "args": arguments,
        "accelerator": accelerator,
        "model": types.SimpleNamespace(training=True),
        "loss_type": loss_type,
        "epsilon_low": low,
        "epsilon_high": high,
        "beta": 0.0,
        "importance_sampling_level": "token",
        "max_completion_length": LIMIT,
        "aux_loss_enabled": False,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "use_vllm": False,
        "vllm_importance_sampling_correction": False,
        "current_gradient_accumulation_steps": 1,
        "_entropy_bonus_enabled": False,
        "_metrics": {"train": defaultdict(list)},
        "_get_per_token_logps_and_entropies": lambda *a, **k: (
            logprobs_BL,
            torch.zeros_like(logprobs_BL),
            None,
        ),
    }
    return types.SimpleNamespace(**(given | changes))


def trl_inputs(inputs):
    mask_BL = padded(inputs.mask_T, LENGTHS)
    nothing = torch.zeros(len(LENGTHS), 1, dtype=torch.long)
    old_BL = padded(inputs.old_logprobs_T, LENGTHS)
    return {
        "prompt_ids": nothing,
        "prompt_mask": nothing,
        "completion_ids": torch.zeros_like(mask_BL, dtype=torch.long),
        "completion_mask": mask_BL,
        "advantages": padded(inputs.advantages_T, LENGTHS)[:, 0],
        "old_per_token_logps": old_BL,
        "old_logps": (old_BL * mask_BL).sum(1),
        "ref_per_token_logps": padded(inputs.reference_logprobs_T, LENGTHS),
        "num_items_in_batch": mask_BL.sum(),
    }


def gradient(loss, inputs):
    return torch.autograd.grad(loss, inputs.logprobs_T, retain_graph=True)[0]


@pytest.mark.parametrize(
    ("algorithm", "settings", "loss_type", "bounds", "trl_settings"),
    [
        (grpo, {}, "grpo", (0.2, 0.2), {}),
        (grpo, {"kl_in_loss": 0.1}, "grpo", (0.2, 0.2), {"beta": 0.1}),
        (
            grpo,
            {"kl_in_loss": 0.1, "kl_times_ratio": True},
            "grpo",
            (0.2, 0.2),
            {"beta": 0.1, "kl_times_ratio": True},
        ),
        (dr_grpo, {}, "dr_grpo", (0.2, 0.2), {}),
        (dapo, {}, "dapo", (0.2, 0.28), {}),
        (gspo, {}, "grpo", (3e-4, 4e-4), {"importance_sampling_level": "sequence"}),
        (
            gspo,
            {"clip_low": 0.5, "clip_high": 0.9},
            "grpo",
            (0.5, 0.9),
            {"importance_sampling_level": "sequence"},
        ),
        (cispo, {"clip_high": 0.3}, "cispo", (None, 1.3), {}),
        (sapo, {}, "sapo", (0.2, 0.2), {}),
    ],
)
def test_losses_agree(grpo_trainer, algorithm, settings, loss_type, bounds, trl_settings):
    inputs = random_answers()
    theirs = trainer(inputs, loss_type, *bounds, **trl_settings)
    expected = grpo_trainer.GRPOTrainer._compute_loss(theirs, None, trl_inputs(inputs))
    found = algorithm.loss(inputs, algorithm.Config(**settings)).total
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(
        gradient(found, inputs), gradient(expected, inputs), atol=1e-6, rtol=1e-5
    )


def test_clip_shares_agree(grpo_trainer):
    inputs = random_answers()
    theirs = trainer(inputs, "dapo", 0.2, 0.28)
    grpo_trainer.GRPOTrainer._compute_loss(theirs, None, trl_inputs(inputs))
    metrics = dapo.loss(inputs, dapo.Config()).metrics
    for side in ("low", "high"):
        [expected] = theirs._metrics["train"][f"clip_ratio/{side}_mean"]
        assert metrics[f"policy/clip_{side}_share"].item() == pytest.approx(expected, abs=1e-6)
        assert expected > 0


def test_leave_one_out_has_the_same_gradient_on_fresh_answers(rloo_trainer):
    inputs = random_answers(fresh=True)
    theirs = trainer(inputs, "rloo", 0.2, 0.2)
    expected = rloo_trainer.RLOOTrainer._compute_loss(theirs, None, trl_inputs(inputs))
    found = rloo.loss(inputs, rloo.Config()).total
    torch.testing.assert_close(
        gradient(found, inputs), gradient(expected, inputs), atol=1e-6, rtol=1e-5
    )


def test_standard_deviations_are_the_same_number(grpo_trainer):
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.2, 0.9, 0.4, 0.1]])
    expected = (rewards - rewards.mean(1, keepdim=True)) / (
        grpo_trainer.nanstd(rewards, dim=1)[:, None] + 1e-4
    )
    found = ops.baselines.group_advantages(rewards, "std", epsilon=1e-4)
    torch.testing.assert_close(found, expected)


def test_padding_and_packing_are_inverse():
    values = torch.arange(float(sum(LENGTHS)))
    assert packed(padded(values, LENGTHS), LENGTHS).tolist() == values.tolist()
