"""The RL step: the same for any micro-batch budget, and the gradient that the formula gives."""

import random

import pytest
import torch

from posttrain.algorithms import grpo
from posttrain.errors import StageFailed
from posttrain.model.load import load_model, load_tokenizer
from posttrain.model.micro import build_micro
from posttrain.train.rl_batch import flatten
from posttrain.train.rl_step import RlTrainer, StepSettings
from posttrain.types import Prompt, Rollout, RolloutGroup, Score, ScoredGroup, TrainBatch


@pytest.fixture(scope="module")
def micro(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "micro"
    build_micro(folder, seed=0)
    return folder


def make_batch(num_groups=4, samples=4):
    rng = random.Random(0)

    def ids(count):
        return tuple(rng.randint(3, 60) for _ in range(count))

    groups = []
    for draw in range(num_groups):
        prompt = Prompt(str(draw), "source", ids(5), "?", {})
        rollouts = []
        for sample in range(samples):
            tokens = ids(rng.choice([0, 1, 3, 8, 20]))
            logprobs = tuple(-4.2 + 0.1 * rng.random() for _ in tokens)
            mask = tuple(int(rng.random() < 0.9) for _ in tokens)
            versions = tuple(0 for _ in tokens)
            rollouts.append(
                Rollout(
                    str(draw),
                    sample,
                    prompt.token_ids,
                    tokens,
                    mask,
                    logprobs,
                    versions,
                    "",
                    "stop",
                )
            )
        scores = tuple(Score(float(rng.random() < 0.5)) for _ in rollouts)
        groups.append(
            ScoredGroup(RolloutGroup(str(draw), draw, prompt, tuple(rollouts), 0), scores)
        )
    return TrainBatch(0, tuple(groups))


def make_trainer(micro, budget, **config):
    return RlTrainer(
        load_model(micro),
        load_model(micro),
        load_tokenizer(micro),
        grpo,
        grpo.Config(lr=1e-3, **config),
        StepSettings(temperature=1.0, tokens_per_micro_batch=budget),
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


def test_gradient_that_is_not_finite_changes_nothing(micro):
    trainer = make_trainer(micro, 10_000)
    with torch.no_grad():
        trainer.model.model.norm.weight[0] = float("nan")
    before = {name: value.clone() for name, value in trainer.weights().items()}
    with pytest.raises(StageFailed, match="step 0: loss nan"):
        trainer.step(flatten(make_batch()), step=0, num_steps=10)
    for name, value in trainer.weights().items():
        assert torch.equal(value.nan_to_num(9.0), before[name].nan_to_num(9.0))


def test_restored_trainer_goes_on_bit_for_bit(micro):
    straight, cut = make_trainer(micro, 64), make_trainer(micro, 64)
    batch = flatten(make_batch())
    for step in range(2):
        straight.step(batch, step, 10)
    cut.step(batch, 0, 10)
    saved = {name: value.clone() for name, value in cut.weights().items()}, cut.optimiser_state()
    resumed = make_trainer(micro, 64)
    resumed.load(*saved)
    resumed.step(batch, 1, 10)
    assert resumed.tokens_seen == straight.tokens_seen
    for name, value in straight.weights().items():
        assert torch.equal(value, resumed.weights()[name])
