"""Stages kept near their start: penalties, halves, averages and early ends, by numbers."""

import copy
import json

import pytest
import torch
from rl_batches import make_batch
from test_preference import train as train_preference
from test_rl_step import StepSettings, grpo
from test_sft import Recorder, rows, settings, train  # noqa: F401

from posttrain import ops
from posttrain.config.restraints import EarlyStopping, Ema, Restraints, StartPenalty
from posttrain.errors import InputError
from posttrain.model.load import load_model, load_state, load_tokenizer
from posttrain.train.half_fine_tuning import FILE as HALF_FILE
from posttrain.train.half_fine_tuning import freeze_half
from posttrain.train.rl_batch import flatten
from posttrain.train.rl_step import RlTrainer
from posttrain.train.start_point import StartPoint
from posttrain.train.weight_average import WeightAverage

PENALTY = Restraints(start_penalty=StartPenalty(l1=1e-3, l2=0.5))
AVERAGE = Restraints(ema=Ema(decay=0.5))
HALF = Restraints(half_fine_tuning=True)


def distance(state, start):
    return torch.nn.utils.get_total_norm([state[n] - start[n] for n in start]).item()


def test_the_penalty_is_added_to_the_gradient_and_measured():
    weight, unused = (
        torch.nn.Parameter(torch.tensor([1.0, -2.0])),
        torch.nn.Parameter(torch.ones(1)),
    )
    start = StartPoint([weight, unused], StartPenalty(l1=0.1, l2=0.5))
    with torch.no_grad():
        weight += torch.tensor([2.0, -0.5])
        unused += 1.0
    weight.grad = torch.tensor([10.0, 10.0])
    metrics = start.add_gradient()
    # 10 + 0.1 · sign + 0.5 · difference
    assert weight.grad.tolist() == pytest.approx([11.1, 9.65])
    assert unused.grad.tolist() == pytest.approx([0.6])
    assert metrics == pytest.approx(
        {
            "train/start_distance_l1": 3.5,
            "train/start_distance_l2": (4.0 + 0.25 + 1.0) ** 0.5,
            "train/start_penalty": 0.1 * 3.5 + 0.25 * 5.25,
        }
    )


def test_an_average_by_hand():
    weight = torch.nn.Parameter(torch.tensor([0.0]))
    average = WeightAverage([("weight", weight)], decay=0.15)
    for value in (1.0, 2.0):
        weight.data = torch.tensor([value])
        average.update()
    # decays 0.1, then min(0.15, 2/11): 0.9, then 0.15 · 0.9 + 0.85 · 2
    assert average.tensors["weight"].item() == pytest.approx(1.835)
    with average.in_place():
        assert weight.item() == pytest.approx(1.835)
    assert weight.item() == 2.0


def test_sft_with_a_penalty_stays_nearer_and_micro_batches_change_nothing(micro, rows, tmp_path):  # noqa: F811
    train(micro, tmp_path / "free", rows)
    _, whole = train(micro, tmp_path / "held", rows, restraints=PENALTY)
    _, pieces = train(
        micro, tmp_path / "pieces", rows, restraints=PENALTY, tokens_per_micro_batch=24
    )
    start = load_state(micro)
    states = {n: load_state(tmp_path / n / "model") for n in ("free", "held", "pieces")}
    free, held = (distance(states[name], start) for name in ("free", "held"))
    assert held < 0.8 * free
    distances = whole.series("train/start_distance_l2")
    assert distances[1] == 0.0 and 0.0 < distances[6] == pytest.approx(held, rel=0.5)
    for name in ("train/start_penalty", "train/grad_norm"):
        assert list(pieces.series(name).values()) == pytest.approx(
            list(whole.series(name).values()), rel=2e-4
        )


def test_the_logged_gradient_is_that_of_loss_and_penalty(micro, rows, tmp_path, monkeypatch):  # noqa: F811
    """In the second step of two on the same rows, by autograd on a plain model."""
    kept = {}

    def keep(self):
        kept.update({n: p.detach().clone() for n, p in self.model.named_parameters()})
        return original(self)

    from posttrain.train.stage_trainer import StageTrainer

    original = StageTrainer.after_step
    monkeypatch.setattr(StageTrainer, "after_step", lambda self: keep(self) if not kept else None)
    batch = rows[:8]
    _, tracker = train(micro, tmp_path, batch, steps=2, restraints=PENALTY)
    model, start = load_model(micro), load_state(micro)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(kept[name])
    nats = []
    for row in batch:
        ids = torch.tensor(row.token_ids)
        logprobs = model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)
        chosen = logprobs.gather(-1, ids[1:, None])[:, 0]
        nats.append(-chosen[torch.tensor(row.trained_mask[1:]).bool()])
    loss = torch.cat(nats).mean()
    for name, parameter in model.named_parameters():
        difference = parameter - start[name]
        loss = loss + 1e-3 * difference.abs().sum() + 0.25 * difference.square().sum()
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    assert tracker.series("train/grad_norm")[2] == pytest.approx(norm.item(), rel=1e-4)
    penalty = tracker.series("train/start_penalty")[2]
    assert tracker.series("train/loss")[2] + penalty == pytest.approx(loss.item(), rel=1e-5)


def test_sft_of_a_half_leaves_the_other_bit_for_bit(micro, rows, tmp_path):  # noqa: F811
    polls = iter([False, False, True])
    outcome, before = train(micro, tmp_path, rows, stop_asked=lambda: next(polls), restraints=HALF)
    assert outcome == "stopped"
    said = json.loads((tmp_path / HALF_FILE).read_text())
    outcome, tracker = train(micro, tmp_path, rows, restraints=HALF)
    assert outcome == "done"
    assert json.loads((tmp_path / HALF_FILE).read_text()) == said
    start, end = load_state(micro), load_state(tmp_path / "model")
    same = {name for name in start if torch.equal(start[name], end[name])}
    assert same == set(said["frozen"]) == freeze_half(load_model(micro), seed=3)
    shares = {**before.series("train/trained_share"), **tracker.series("train/trained_share")}
    assert shares == dict.fromkeys(range(1, 7), said["trained_share"])


def test_the_sft_model_is_the_average_of_its_steps(micro, rows, tmp_path):  # noqa: F811
    """A stopped and resumed stage gives on the very average of one that was not stopped."""
    from posttrain.train.stage_trainer import StageTrainer

    seen = []
    original = StageTrainer.after_step

    def after_step(self):
        seen.append(copy.deepcopy(self.trained_weights()))
        original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StageTrainer, "after_step", after_step)
        _, tracker = train(
            micro, tmp_path / "straight", rows, restraints=AVERAGE, steps=5, holdout_rows=8
        )
    average = dict(load_model(micro).named_parameters())
    for number, weights in enumerate(seen):
        decay = min(0.5, (1 + number) / (10 + number))
        average = {n: ops.ema.updated(average[n].detach(), weights[n], decay) for n in average}
    straight = load_state(tmp_path / "straight" / "model")
    assert all(torch.equal(straight[name], average[name]) for name in straight)
    # Held-out rows are asked of the average, which is what the stage gives on.
    assert tracker.series("sft/heldout_loss")[5] > 0
    polls = iter([False, False, True])
    cut = {"restraints": AVERAGE, "steps": 5, "holdout_rows": 8}
    train(micro, tmp_path / "cut", rows, stop_asked=lambda: next(polls), **cut)
    _, after = train(micro, tmp_path / "cut", rows, **cut)
    resumed = load_state(tmp_path / "cut" / "model")
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    assert after.series("sft/heldout_loss")[5] == tracker.series("sft/heldout_loss")[5]


def test_sft_ends_early_with_its_best_weights(micro, rows, tmp_path, monkeypatch):  # noqa: F811
    losses = iter([3.0, 2.0, 2.5, 2.25, 9.0])
    monkeypatch.setattr("posttrain.train.sft.mean_loss", lambda *a, **k: next(losses))
    early = {"early_stopping": EarlyStopping(patience=2, every=2), "holdout_rows": 8}
    outcome, tracker = train(micro, tmp_path / "early", rows, steps=20, **early)
    assert outcome == "done"
    assert tracker.series("sft/heldout_loss") == {0: 3.0, 2: 2.0, 4: 2.5, 6: 2.25}
    assert max(tracker.series("train/loss")) == 6
    (event,) = [details for name, details in tracker.events if name == "stopped-early"]
    assert event["step"] == 6 and "with the weights of step 2" in event["text"]
    monkeypatch.setattr("posttrain.train.sft.mean_loss", lambda *a, **k: 1.0)
    two = {"stop_asked": lambda: bool(kept), "holdout_rows": 8, "steps": 20}
    kept = []

    def remember(self):
        if self.state.global_step == 2:
            kept.append(copy.deepcopy(self.trained_weights()))

    monkeypatch.setattr("posttrain.train.stage_trainer.StageTrainer.after_step", remember)
    train(micro, tmp_path / "two", rows, **two)
    best = load_state(tmp_path / "early" / "model")
    assert all(torch.equal(best[name], kept[0][name]) for name in best)


def test_early_stopping_without_held_out_rows_is_refused(micro, rows, tmp_path):  # noqa: F811
    with pytest.raises(InputError, match="of 4 rows none is"):
        train(micro, tmp_path, rows[:4], early_stopping=EarlyStopping(), holdout_rows=8)


def test_preference_ends_early_and_takes_all_restraints(micro, tmp_path):
    restraints = Restraints(StartPenalty(l2=0.1), True, Ema())
    outcome, tracker = train_preference(
        micro, tmp_path / "run", steps=20, holdout_rows=8, own={"lr": 1e-9},
        restraints=restraints, early_stopping=EarlyStopping(patience=1, every=3),
    )  # fmt: skip
    assert outcome == "done"
    # At the start all comparisons are ties, 0.5. Such a rate breaks them once, by rounding.
    assert tracker.series("pref/heldout_accuracy")[0] == 0.5
    assert len(tracker.series("train/loss")) == 3 * (
        len(tracker.series("pref/heldout_accuracy")) - 1
    )
    assert len(tracker.series("train/loss")) < 20
    assert "stopped-early" in [name for name, _ in tracker.events]
    assert tracker.series("train/start_distance_l2")[0] == 0.0
    assert "half-frozen" in [name for name, _ in tracker.events]
    start, end = load_state(micro), load_state(tmp_path / "run" / "model")
    frozen = freeze_half(load_model(micro), seed=3)
    assert all(torch.equal(start[name], end[name]) for name in frozen)


def rl_trainer(micro, restraints):
    model = load_model(micro)
    if restraints.half_fine_tuning:
        freeze_half(model, 3)
    return RlTrainer(
        model, load_model(micro), load_tokenizer(micro), grpo, grpo.Config(lr=1e-3),
        StepSettings(1.0, 30, restraints=restraints, optimiser_steps=2),
    )  # fmt: skip


def test_online_restraints_survive_a_restart(micro, tmp_path):
    restraints = Restraints(StartPenalty(l2=0.5), True, Ema(decay=0.5))
    flat = flatten(make_batch())

    def steps(trainer, numbers):
        return [trainer.step(flat, number, 4) for number in numbers]

    straight = rl_trainer(micro, restraints)
    first = steps(straight, range(4))
    begun = rl_trainer(micro, restraints)
    steps(begun, range(2))
    resumed = rl_trainer(micro, restraints)
    resumed.load(copy.deepcopy(begun.weights()), copy.deepcopy(begun.state()))
    again = steps(resumed, range(2, 4))
    name = "train/start_distance_l2"
    assert 0 < first[0][name] < first[3][name]
    assert [row[name] for row in again] == [row[name] for row in first[2:]]
    assert 0.45 < first[0]["train/trained_share"] < 0.6
    straight.policy.export(tmp_path / "straight")
    resumed.policy.export(tmp_path / "resumed")
    one, two = load_state(tmp_path / "straight"), load_state(tmp_path / "resumed")
    assert all(torch.equal(one[name], two[name]) for name in one)
    start, published = load_state(micro), straight.policy.published_weights()
    frozen = freeze_half(load_model(micro), 3)
    for name in start:  # engines get the weights as they are, the stage gives on their average
        assert torch.equal(one[name], start[name]) == (name in frozen)
        assert torch.equal(one[name], published[name]) == (name in frozen)


def test_an_online_penalty_holds_the_policy_nearer(micro):
    flat, far = flatten(make_batch()), []
    for restraints in (Restraints(StartPenalty(l2=1e-9)), Restraints(StartPenalty(l2=10.0))):
        trainer = rl_trainer(micro, restraints)
        far.append([trainer.step(flat, n, 6) for n in range(6)][-1]["train/start_distance_l2"])
    assert far[1] < 0.8 * far[0]
