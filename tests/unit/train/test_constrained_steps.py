"""CGPO's rules in the trainer: judges reach them, and packing changes nothing."""

from dataclasses import replace

import pytest
import torch
from rl_batches import make_batch
from torch.nn.functional import logsigmoid

from posttrain.algorithms import codpo, crpg, crraft
from posttrain.model.load import load_model, load_tokenizer
from posttrain.train.rl_batch import flatten
from posttrain.train.rl_step import RlTrainer, StepSettings
from posttrain.types import Score

BETA, WEIGHT = 0.3, 0.7


@pytest.fixture(scope="module")
def moved(micro):
    """The policy: the starting model with a little noise, so that answers have a distance."""
    model, generator = load_model(micro), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model.state_dict()


def judged_batch():
    """Every third answer violates a judge and earns 0, the others between .2 and 1."""
    batch = make_batch()
    groups = []
    for draw, scored in enumerate(batch.groups):
        scores = []
        for sample in range(len(scored.scores)):
            held = (draw + sample) % 3 != 0
            value = 0.2 + 0.8 * ((7 * draw + 3 * sample) % 5) / 4
            scores.append(Score(value * held, None, {"judge/short": float(held)}))
        groups.append(replace(scored, scores=tuple(scores)))
    return replace(batch, groups=tuple(groups))


def trainer(micro, moved, algorithm, budget, **config):
    policy = load_model(micro)
    policy.load_state_dict(moved)
    return RlTrainer(
        policy,
        load_model(micro),
        load_tokenizer(micro),
        algorithm,
        algorithm.Config(lr=1e-3, **config),
        StepSettings(1.0, budget),
    )


def fresh(micro, moved):
    """The batch as if the policy had sampled it."""
    flat = flatten(judged_batch())
    own = trainer(micro, moved, crpg, 10_000).logprobs(flat.rollouts)
    return replace(flat, behaviour_logprobs_T=own)


def gradients(monkeypatch, micro, moved, algorithm, budget, **config):
    kept = []

    def keep(parameters, max_norm):
        kept.extend(p.grad.clone() for p in parameters)
        return torch.nn.utils.get_total_norm(kept)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", keep)
    flat = fresh(micro, moved)
    metrics = trainer(micro, moved, algorithm, budget, **config).step(flat, 0, 10)
    return kept, metrics


@pytest.mark.parametrize("algorithm", [crpg, crraft, codpo])
def test_micro_batches_change_nothing(monkeypatch, micro, moved, algorithm):
    whole, one = gradients(monkeypatch, micro, moved, algorithm, 10_000)
    pieces, many = gradients(monkeypatch, micro, moved, algorithm, 30)
    norm = torch.nn.utils.get_total_norm(whole)
    difference = [a - b for a, b in zip(whole, pieces, strict=True)]
    assert norm > 1e-3
    assert torch.nn.utils.get_total_norm(difference) / norm < 1e-5
    for name in ("train/loss", "policy/ratio_mean", "policy/kl_reference_nats"):
        assert many[name] == pytest.approx(one[name], rel=1e-4, abs=1e-5)


def test_codpo_s_step_is_that_of_dpo_on_whole_pairs(monkeypatch, micro, moved):
    """Answers of a pair in micro-batches of their own, beside both in one graph."""
    settings = {"beta": BETA, "sft_weight": WEIGHT}
    ours, metrics = gradients(monkeypatch, micro, moved, codpo, 30, **settings)
    policy, reference = load_model(micro), load_model(micro)
    policy.load_state_dict(moved)
    batch = judged_batch()
    loss, pairs = torch.zeros(()), 0
    for scored in batch.groups:
        held = [score.parts["judge/short"] == 1.0 for score in scored.scores]
        values = [score.value for score in scored.scores]
        good = [i for i, each in enumerate(held) if each]
        plus = max(good, key=lambda i: values[i])
        minus = held.index(False)  # all that violate earn 0: the first
        rollouts = scored.group.rollouts
        said = {i: logprob(policy, rollouts[i]) for i in (plus, minus)}
        before = {i: logprob(reference, rollouts[i]).detach() for i in (plus, minus)}
        margin = said[plus] - before[plus] - said[minus] + before[minus]
        length = max(sum(rollouts[plus].mask), 1)
        loss = loss - logsigmoid(BETA * margin) - WEIGHT / length * said[plus]
        pairs += 1
    (loss / len(batch.groups)).backward()
    assert metrics["groups/pair_share"] == pairs / len(batch.groups) == 1.0
    for mine, parameter in zip(ours, policy.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, atol=2e-6, rtol=1e-3)


def logprob(model, rollout):
    """Of the tokens that the policy chose, summed."""
    if not rollout.token_ids:
        return torch.zeros(())
    ids = torch.tensor(rollout.prompt_ids + rollout.token_ids)
    logits = model(input_ids=ids[None]).logits[0, len(rollout.prompt_ids) - 1 : -1]
    chosen = torch.tensor(rollout.token_ids)[:, None]
    logprobs = logits.log_softmax(-1).gather(-1, chosen)[:, 0]
    return (logprobs * torch.tensor(rollout.mask)).sum()
