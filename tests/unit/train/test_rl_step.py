"""The RL step: the same for any micro-batch budget, and the gradient that the formula gives."""

from dataclasses import replace

import pytest
import torch
from rl_batches import make_batch

from posttrain.algorithms import grpo
from posttrain.config.pipeline import OffPolicy
from posttrain.errors import StageFailed
from posttrain.model.load import load_model, load_tokenizer
from posttrain.train.rl_batch import flatten
from posttrain.train.rl_step import RlTrainer, StepSettings
from posttrain.types import TrainBatch


def make_trainer(micro, budget, off_policy=None, optimiser_steps=1, **config):
    return RlTrainer(
        load_model(micro),
        load_model(micro),
        load_tokenizer(micro),
        grpo,
        grpo.Config(lr=1e-3, **config),
        StepSettings(
            1.0,
            budget,
            optimiser_steps=optimiser_steps,
            off_policy=OffPolicy(**(off_policy or {})),
        ),
    )


def gradients_and_metrics(micro, monkeypatch, budget, **config):
    """Of one step, before clipping."""
    kept = {}

    def keep(parameters, max_norm):
        kept["gradients"] = [p.grad.clone() for p in parameters]
        return torch.nn.utils.get_total_norm(kept["gradients"])

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", keep)
    trainer = make_trainer(micro, budget, **config)
    metrics = trainer.step(flatten(make_batch()), step=0, num_steps=10)
    return kept["gradients"], metrics


@pytest.mark.parametrize("aggregation", ["token-mean", "seq-mean-token-mean", "seq-mean-token-sum"])
def test_micro_batches_change_nothing(micro, monkeypatch, aggregation):
    settings = {"aggregation": aggregation, "kl_in_loss": 0.1}
    whole, one = gradients_and_metrics(micro, monkeypatch, 10_000, **settings)
    pieces, many = gradients_and_metrics(micro, monkeypatch, 30, **settings)
    difference = torch.nn.utils.get_total_norm([a - b for a, b in zip(whole, pieces, strict=True)])
    # fp32 sums in another order differ by about 1e-6; a wrong denominator by tenths
    assert difference / torch.nn.utils.get_total_norm(whole) < 5e-6
    for name in ("train/loss", "policy/entropy_nats", "policy/ratio_mean", "train/grad_norm"):
        assert many[name] == pytest.approx(one[name], rel=1e-5, abs=1e-6)


def test_gradient_is_that_of_the_formula(micro, monkeypatch):
    """Token mean of -A·w over chosen tokens, unclipped, one sequence at a time."""
    settings = {"aggregation": "token-mean", "clip_low": 0.99, "clip_high": 1e9}
    ours, _ = gradients_and_metrics(micro, monkeypatch, 40, **settings)
    model = load_model(micro)
    batch = make_batch()
    total = sum(sum(r.mask) for g in batch.groups for r in g.group.rollouts)
    loss = torch.zeros(())
    for scored in batch.groups:
        rewards = torch.tensor([score.value for score in scored.scores])
        advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-6)
        for rollout, advantage in zip(scored.group.rollouts, advantages, strict=True):
            if not rollout.token_ids:
                continue
            ids = torch.tensor(rollout.prompt_ids + rollout.token_ids)
            logits = model(input_ids=ids[None]).logits[0, len(rollout.prompt_ids) - 1 : -1]
            chosen = torch.tensor(rollout.token_ids)[:, None]
            logprobs = logits.log_softmax(-1).gather(-1, chosen)[:, 0]
            ratio = torch.exp(logprobs - torch.tensor(rollout.logprobs))
            loss = loss - (advantage * ratio * torch.tensor(rollout.mask)).sum() / total
    loss.backward()
    for mine, parameter in zip(ours, model.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, atol=1e-6, rtol=1e-4)


def test_packed_is_padded(micro):
    """Log-probs of packed rows are those of right-padded ones."""
    trainer, model = make_trainer(micro, 10_000), load_model(micro, attention="sdpa")
    rollouts = [r for scored in make_batch().groups for r in scored.group.rollouts]
    longest = max(len(r.prompt_ids) + len(r.token_ids) for r in rollouts)
    rows = [[*r.prompt_ids, *r.token_ids] for r in rollouts]
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    with torch.no_grad():
        logprobs = model(input_ids=ids, attention_mask=mask).logits.log_softmax(-1)
    padded = [
        float(logprobs[b, len(r.prompt_ids) + t - 1, token])
        for b, r in enumerate(rollouts)
        for t, token in enumerate(r.token_ids)
    ]
    assert trainer.logprobs(rollouts).tolist() == pytest.approx(padded, abs=1e-5)


def test_recomputed_proximal_is_the_policy_before_the_step(micro, monkeypatch):
    """Ratios are 1, and a token weighs how much likelier the trainer finds it than the engine."""
    settings = {"aggregation": "token-mean", "off_policy": {"proximal": "recompute", "high": 1.02}}
    batch = make_batch()
    _, metrics = gradients_and_metrics(micro, monkeypatch, 40, **settings)
    rollouts = [r for scored in batch.groups for r in scored.group.rollouts]
    own = make_trainer(micro, 40).logprobs(rollouts)
    engine = torch.tensor([value for r in rollouts for value in r.logprobs])
    chosen = torch.tensor([m for r in rollouts for m in r.mask]).bool()
    weights = torch.exp(own - engine)[chosen]
    assert metrics["policy/ratio_mean"] == pytest.approx(1.0, abs=1e-6)
    assert metrics["policy/behaviour_weight_max"] == pytest.approx(float(weights.max()), rel=1e-5)
    capped = weights > 1.02
    assert 0.1 < capped.float().mean() < 0.9
    assert metrics["policy/behaviour_weight_capped_share"] == pytest.approx(
        float(capped.float().mean()), abs=1e-6
    )
    applied = float(torch.where(capped, 0.0, weights).mean())
    assert metrics["policy/behaviour_weight_mean"] == pytest.approx(applied, rel=1e-5)


def test_weights_of_one_change_nothing(micro, monkeypatch):
    """Answers that the trainer's own policy sampled: three centres, one gradient."""
    trainer = make_trainer(micro, 40)
    batch = flatten(make_batch())
    own = trainer.logprobs(batch.rollouts)
    batch = replace(batch, behaviour_logprobs_T=own)
    found = {}
    for proximal in ("behaviour", "recompute", "interpolate"):
        monkeypatch.setattr(
            torch.nn.utils, "clip_grad_norm_",
            lambda parameters, _, name=proximal: found.setdefault(
                name, torch.nn.utils.get_total_norm([p.grad.clone() for p in parameters])
            ),
        )  # fmt: skip
        metrics = make_trainer(micro, 40, {"proximal": proximal}).step(batch, 0, 10)
        assert ("policy/behaviour_weight_max" in metrics) == (proximal != "behaviour")
    assert found["recompute"] == pytest.approx(float(found["behaviour"]), rel=1e-5)
    assert found["interpolate"] == pytest.approx(float(found["behaviour"]), rel=1e-5)


def test_with_several_optimiser_steps_proximal_stays_what_it_was_before_the_first(micro):
    """The second part's ratios are not 1, and its weights are those before the first part."""
    off_policy = {"proximal": "recompute", "high": 1e9}
    batch = flatten(make_batch())
    split = make_trainer(micro, 40, off_policy, optimiser_steps=2, clip_high=1e9)
    metrics = split.step(batch, 0, 10)
    whole = make_trainer(micro, 40, off_policy).step(batch, 0, 10)
    assert metrics["policy/behaviour_weight_mean"] == pytest.approx(
        whole["policy/behaviour_weight_mean"], rel=1e-6
    )
    assert metrics["policy/behaviour_weight_max"] == pytest.approx(
        whole["policy/behaviour_weight_max"], rel=1e-5
    )
    assert whole["policy/ratio_mean"] == pytest.approx(1.0, abs=1e-6)
    assert abs(metrics["policy/ratio_mean"] - 1.0) > 1e-4
    assert metrics["train/tokens"] == whole["train/tokens"]


def test_optimiser_steps_are_steps_on_parts_of_the_batch(micro):
    """Two steps on the halves of a batch are one call on the batch, cut in two."""
    batch = make_batch()
    cut = make_trainer(micro, 64, optimiser_steps=2)
    cut.step(flatten(batch), 0, 10)
    by_hand = make_trainer(micro, 64)
    for groups in (batch.groups[:2], batch.groups[2:]):
        by_hand.step(flatten(TrainBatch(0, groups)), 0, 10)
    for name, value in by_hand.policy.weights().items():
        assert torch.equal(value, cut.policy.weights()[name])
    assert cut.policy.tokens_seen == by_hand.policy.tokens_seen


def test_gradient_that_is_not_finite_changes_nothing(micro):
    trainer = make_trainer(micro, 10_000)
    with torch.no_grad():
        trainer.policy.model.model.norm.weight[0] = float("nan")
    before = {name: value.clone() for name, value in trainer.policy.weights().items()}
    with pytest.raises(StageFailed, match="step 0: loss nan"):
        trainer.step(flatten(make_batch()), step=0, num_steps=10)
    for name, value in trainer.policy.weights().items():
        assert torch.equal(value.nan_to_num(9.0), before[name].nan_to_num(9.0))


def test_restored_trainer_goes_on_bit_for_bit(micro):
    straight, cut = make_trainer(micro, 64), make_trainer(micro, 64)
    batch = flatten(make_batch())
    for step in range(2):
        straight.step(batch, step, 10)
    cut.step(batch, 0, 10)
    saved = (
        {name: value.clone() for name, value in cut.policy.weights().items()},
        cut.policy.optimiser_state(),
    )
    resumed = make_trainer(micro, 64)
    resumed.policy.load(*saved)
    resumed.step(batch, 1, 10)
    assert resumed.policy.tokens_seen == straight.policy.tokens_seen
    for name, value in straight.policy.weights().items():
        assert torch.equal(value, resumed.policy.weights()[name])
