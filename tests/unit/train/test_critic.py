"""Critics inside a training step: both kinds, optimisers, warm-up, several passes, restart."""

import copy
from dataclasses import replace

import pytest
import torch
from rl_batches import make_batch

from posttrain.algorithms import ppo, remax
from posttrain.errors import InputError
from posttrain.model.load import load_model, load_tokenizer, save_model
from posttrain.model.value import ValueHead, ValueModel, load_value_model
from posttrain.train.critic import critic_module
from posttrain.train.rl_batch import flatten
from posttrain.train.rl_step import RlTrainer, StepSettings


def make_trainer(micro, critic="policy", budget=60, settings=None, lr=1e-3, **config):
    return RlTrainer(
        load_model(micro),
        load_model(micro),
        load_tokenizer(micro),
        ppo,
        ppo.Config(lr=lr, critic=critic, **config),
        StepSettings(1.0, budget, **(settings or {})),
        critic=critic_module(critic, micro, load_model(micro)),
    )


def copies(weights):
    return {name: value.clone() for name, value in weights.items()}


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_a_critic_from_a_policy_says_nothing_at_first(micro):
    model = load_value_model(micro)
    ids = torch.arange(3, 13)
    packed = {"input_ids": ids[None], "position_ids": torch.arange(10)[None]}
    assert isinstance(model, ValueModel)
    assert model(torch.tensor([2, 5]), **packed).tolist() == [0.0, 0.0]


def test_a_critic_from_a_reward_model_starts_with_its_judgement(micro, tmp_path):
    from transformers import AutoModelForSequenceClassification

    judge = AutoModelForSequenceClassification.from_pretrained(micro, num_labels=1)
    save_model(judge, load_tokenizer(micro), tmp_path / "judge")
    ids = torch.arange(3, 13)
    model = load_value_model(tmp_path / "judge")
    found = model(torch.tensor([9]), input_ids=ids[None], position_ids=torch.arange(10)[None])
    judge.config.pad_token_id = 0
    expected = judge.eval()(input_ids=ids[None]).logits[0, 0]
    assert found[0].item() == pytest.approx(expected.item(), abs=1e-5)
    assert found[0].item() != 0.0


def test_a_classifier_of_two_labels_is_no_critic(micro, tmp_path):
    from transformers import AutoModelForSequenceClassification

    judge = AutoModelForSequenceClassification.from_pretrained(micro, num_labels=2)
    save_model(judge, load_tokenizer(micro), tmp_path / "judge")
    with pytest.raises(InputError, match="2 labels"):
        load_value_model(tmp_path / "judge")


@pytest.mark.parametrize("critic", ["policy", "head"])
def test_policy_and_critic_learn_from_one_batch(micro, critic):
    trainer = make_trainer(micro, critic)
    before = copies(trainer.weights())
    metrics = trainer.step(flatten(make_batch()), step=0, num_steps=10)
    moved = changed(before, trainer.weights())
    assert any(name.startswith("critic.") for name in moved)
    assert any(not name.startswith("critic.") for name in moved)
    assert metrics["train/value_loss"] > 0 and metrics["train/critic_grad_norm"] > 0


@pytest.mark.parametrize("critic", ["policy", "head"])
def test_the_critic_comes_to_expect_what_answers_earn(micro, critic):
    trainer = make_trainer(micro, critic, kl_in_reward=0.0, value_clip=None, value_weight=1.0)
    flat = flatten(make_batch())
    errors = [trainer.step(flat, step=step, num_steps=40)["train/value_loss"] for step in range(40)]
    assert errors[-1] < 0.3 * errors[0]


def test_micro_batches_change_nothing(micro):
    def after(budget):
        trainer = make_trainer(micro, budget=budget)
        metrics = trainer.step(flatten(make_batch()), step=0, num_steps=10)
        return metrics

    whole, pieces = after(10_000), after(30)
    for name in ("train/loss", "train/value_loss", "train/grad_norm", "train/critic_grad_norm"):
        assert pieces[name] == pytest.approx(whole[name], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("critic", ["policy", "head"])
def test_while_it_warms_up_the_critic_alone_moves(micro, critic):
    trainer = make_trainer(micro, critic, critic_warmup_steps=1)
    before = copies(trainer.weights())
    metrics = trainer.step(flatten(make_batch()), step=0, num_steps=10)
    assert all(name.startswith("critic.") for name in changed(before, trainer.weights()))
    assert "train/grad_norm" not in metrics and metrics["train/critic_grad_norm"] > 0
    assert metrics["train/warmup"] == 1.0
    trainer.step(flatten(make_batch()), step=1, num_steps=10)
    assert any(not name.startswith("critic.") for name in changed(before, trainer.weights()))


def test_the_critic_has_a_learning_rate_of_its_own(micro):
    """AdamW's first step moves every weight by about its learning rate."""
    trainer = make_trainer(micro, critic_lr=1e-5)
    before = copies(trainer.weights())
    trainer.step(flatten(make_batch()), step=0, num_steps=10)
    steps = {name: (w - before[name]).abs().max().item() for name, w in trainer.weights().items()}
    assert steps["critic.score.weight"] == pytest.approx(1e-5, rel=0.01)
    largest = max(s for name, s in steps.items() if not name.startswith("critic."))
    assert largest == pytest.approx(1e-3, rel=0.01)


def test_passes_over_a_batch_are_optimiser_steps(micro):
    trainer = make_trainer(micro, settings={"epochs": 3, "optimiser_steps": 2}, lr=1e-5)
    count = []
    step = trainer.policy.step
    trainer.policy.step = lambda: (count.append(1), step())
    metrics = trainer.step(flatten(make_batch()), step=0, num_steps=10)
    assert len(count) == 6
    # a mean over all six, not their sum
    ratio = make_trainer(micro).step(flatten(make_batch()), 0, 10)["policy/ratio_mean"]
    assert metrics["policy/ratio_mean"] == pytest.approx(ratio, rel=0.05)


@pytest.mark.parametrize("critic", ["policy", "head"])
def test_restored_trainer_goes_on_bit_for_bit(micro, critic):
    flat = flatten(make_batch())
    settings = {"kl_in_reward": 0.1, "kl_target": 0.5, "kl_horizon": 100}
    first = make_trainer(micro, critic, **settings)
    for step in range(2):
        first.step(flat, step=step, num_steps=10)
    weights, state = copies(first.weights()), copy.deepcopy(first.state())
    second = make_trainer(micro, critic, **settings)
    second.load(weights, state)
    one, two = (t.step(flat, step=2, num_steps=10) for t in (first, second))
    same = [name for name in one if name != "train/peak_memory_bytes"]
    assert {name: one[name] for name in same} == {name: two[name] for name in same}
    assert changed(first.weights(), second.weights()) == set()


def test_the_kl_coefficient_follows_its_target(micro):
    trainer = make_trainer(micro, kl_in_reward=0.2, kl_target=1.0, kl_horizon=160)
    flat = flatten(make_batch())
    first = trainer.step(flat, step=0, num_steps=10)
    second = trainer.step(flat, step=1, num_steps=10)
    error = max(-0.2, min(0.2, first["policy/kl_reference_nats"] - 1.0))
    assert first["policy/kl_coefficient"] == 0.2
    # 16 answers of a horizon of 160
    assert second["policy/kl_coefficient"] == pytest.approx(0.2 * (1 + error * 16 / 160))


def test_a_batch_without_a_token_of_the_policy_moves_nothing(micro):
    flat = flatten(make_batch())
    trainer = make_trainer(micro)
    trainer.step(flat, step=0, num_steps=10)  # so that AdamW has a momentum to go on with
    before = copies(trainer.weights())
    silent = replace(flat, mask_T=torch.zeros_like(flat.mask_T))
    metrics = trainer.step(silent, step=1, num_steps=10)
    assert changed(before, trainer.weights()) == set()
    assert metrics["train/empty_steps"] == 1.0


def test_remax_without_greedy_answers_is_refused(micro):
    trainer = RlTrainer(
        load_model(micro),
        load_model(micro),
        load_tokenizer(micro),
        remax,
        remax.Config(lr=1e-3),
        StepSettings(1.0, 1000),
    )
    with pytest.raises(ValueError, match="greedy"):
        trainer.step(flatten(make_batch()), step=0, num_steps=10)


def test_ppo_without_a_critic_is_refused(micro):
    with pytest.raises(ValueError, match="critic"):
        RlTrainer(
            load_model(micro),
            load_model(micro),
            load_tokenizer(micro),
            ppo,
            ppo.Config(),
            StepSettings(1.0, 1000),
        )


def test_head_has_no_bias_towards_anything():
    head = ValueHead(4)
    assert head(torch.randn(3, 4)).tolist() == [0.0, 0.0, 0.0]


def test_a_critic_with_another_vocabulary_is_refused(micro, tmp_path):
    from transformers import AutoModelForSequenceClassification

    judge = AutoModelForSequenceClassification.from_pretrained(micro, num_labels=1)
    policy = load_model(micro)
    judge.resize_token_embeddings(policy.config.vocab_size + 8)
    save_model(judge, load_tokenizer(micro), tmp_path / "judge")
    with pytest.raises(InputError, match="different tokenizers"):
        critic_module(str(tmp_path / "judge"), micro, policy)
