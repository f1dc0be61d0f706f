"""Preferences through TRL: losses by hand, no matter the micro-batch, bit-equal after a stop."""

import importlib
import math

import pytest
import torch
from pair_rows import Recorder, sorted_letters_are_better
from safetensors.torch import load_file

from posttrain.algorithms import needs_of
from posttrain.checkpoint.folders import CommittedFolders
from posttrain.config.lora import Lora
from posttrain.errors import StageFailed
from posttrain.model.load import load_model, load_state
from posttrain.train.offline import OfflineSettings
from posttrain.train.preference import REFERENCE_FILE, answer_logprobs, run_preference

FAMILY = (
    "dpo", "dpo_norm", "ipo", "cdpo", "robust_dpo", "simpo", "orpo", "kto", "srpo", "dno"
)  # fmt: skip


def algorithm(name, **settings):
    module = importlib.import_module(f"posttrain.algorithms.{name}")
    config = module.Config(**{"lr": 1e-3, "schedule": "constant", "warmup_share": 0.0} | settings)
    return module.objective(config), needs_of(module, config)


def train(micro, directory, name="dpo", *, stop_asked=lambda: False, rows=40, own=(), **changes):
    objective, needs = algorithm(name, **dict(own))
    values = {
        "directory": directory,
        "model_path": str(micro),
        "objective": objective,
        "batch_rows": 8,
        "tokens_per_micro_batch": 4096,
        "steps": 4,
        "epochs": None,
        "holdout_rows": 0,
        "seed": 3,
        "precision": "fp32",
    }
    directory.mkdir(exist_ok=True)
    tracker = Recorder()
    outcome = run_preference(
        OfflineSettings(**values | changes),
        sorted_letters_are_better(
            micro, rows, answers=objective.answers, revision_prompt=objective.revision_prompt
        ),
        tracker,
        stop_asked,
        CommittedFolders(directory / "checkpoints"),
        has_reference=needs.reference,
    )
    return outcome, tracker


def weights(directory):
    return load_file(directory / "model" / "model.safetensors")


@pytest.mark.parametrize("name", FAMILY)
def test_every_algorithm_learns_to_tell_the_pairs_apart(micro, tmp_path, name):
    settings = {"srpo": {"beta": 0.1}, "ipo": {"beta": 0.3}}.get(name, {})
    outcome, tracker = train(
        micro, tmp_path / name, name, steps=25, rows=64, holdout_rows=12, own=settings
    )
    assert outcome == "done"
    heldout = tracker.series("pref/heldout_accuracy")
    assert heldout[-1] >= 0.9
    if algorithm(name)[1].reference:
        assert heldout[0] == 0.5 and tracker.series("pref/heldout_margin")[0] == 0.0
    losses = tracker.series("train/loss")
    assert all(map(math.isfinite, losses)) and losses[-1] < losses[0]


def test_the_first_losses_are_those_of_a_margin_of_nothing(micro, tmp_path):
    expected = {
        "dpo": math.log(2),
        "dpo_norm": math.log(2),
        "cdpo": math.log(2),
        "robust_dpo": math.log(2),
        "ipo": 25.0,  # (1 / (2 · 0.1))²
        "kto": 0.5,
        "srpo": 0.25,
    }
    for name, value in expected.items():
        _, tracker = train(micro, tmp_path / name, name, steps=1)
        assert tracker.series("train/loss")[0] == pytest.approx(value, abs=1e-4), name


def test_simpo_and_orpo_start_where_their_formulas_say(micro, tmp_path):
    """By hand, from the log-probs of the untrained model."""
    pairs = sorted_letters_are_better(micro, 8)
    sums_N2 = answer_logprobs(load_model(micro), pairs, ("chosen", "rejected"), 4096).double()
    lengths_N2 = torch.tensor(
        [[len(p.answers[n][1]) for n in ("chosen", "rejected")] for p in pairs]
    )
    w_N, l_N = (sums_N2 / lengths_N2).T
    simpo = -torch.nn.functional.logsigmoid(2.5 * (w_N - l_N) - 1.375).mean()
    odds = [a - torch.log1p(-torch.exp(a)) for a in (w_N, l_N)]
    orpo = (-w_N - 0.1 * torch.nn.functional.logsigmoid(odds[0] - odds[1])).mean()
    for name, value in (("simpo", simpo), ("orpo", orpo)):
        _, tracker = train(micro, tmp_path / name, name, steps=1, rows=8)
        assert tracker.series("train/loss")[0] == pytest.approx(float(value), rel=1e-5)


@pytest.mark.parametrize("name", ["dpo", "kto"])
def test_the_number_of_micro_batches_changes_nothing(micro, tmp_path, name):
    _, whole = train(micro, tmp_path / "whole", name)
    _, small = train(micro, tmp_path / "small", name, tokens_per_micro_batch=100)
    for metric in ("train/loss", "train/grad_norm", "pref/margin", "pref/length_gap_tokens"):
        assert small.series(metric) == pytest.approx(whole.series(metric), rel=1e-4, abs=1e-6)
    assert small.series("train/real_token_share")[0] > whole.series("train/real_token_share")[0]
    for tensor, other in zip(
        weights(tmp_path / "whole").values(), weights(tmp_path / "small").values(), strict=True
    ):
        torch.testing.assert_close(tensor, other, rtol=1e-3, atol=1e-5)


def test_stopped_and_gone_on_is_the_same_as_never_stopped(micro, tmp_path):
    train(micro, tmp_path / "whole", steps=6)
    asked = iter([False, False, True])
    outcome, _ = train(micro, tmp_path / "parts", steps=6, stop_asked=lambda: next(asked))
    assert outcome == "stopped" and (tmp_path / "parts" / REFERENCE_FILE).exists()
    outcome, tracker = train(micro, tmp_path / "parts", steps=6)
    assert outcome == "done" and ("restored", {"step": 3}) in tracker.events
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_kept_log_probs_of_other_rows_are_not_used(micro, tmp_path):
    asked = iter([True])
    train(micro, tmp_path / "a", stop_asked=lambda: next(asked), rows=24)
    before = load_file(tmp_path / "a" / REFERENCE_FILE)["training"]
    train(micro, tmp_path / "a", stop_asked=lambda: True, rows=40, steps=9)
    assert load_file(tmp_path / "a" / REFERENCE_FILE)["training"].shape[0] != before.shape[0]


def test_reference_log_probs_depend_neither_on_batch_nor_on_order(micro):
    model, pairs = load_model(micro), sorted_letters_are_better(micro, 12)
    whole = answer_logprobs(model, pairs, ("chosen", "rejected"), 4096)
    alone = torch.cat([answer_logprobs(model, [p], ("chosen", "rejected"), 1) for p in pairs])
    torch.testing.assert_close(whole, alone, rtol=0, atol=1e-5)
    backwards = answer_logprobs(model, pairs[::-1], ("rejected", "chosen"), 64).flip(0, 1)
    torch.testing.assert_close(whole, backwards, rtol=0, atol=1e-5)


def test_lora_trains_adapters_and_writes_the_merged_model(micro, tmp_path):
    outcome, tracker = train(
        micro, tmp_path / "run", steps=20, lora=Lora(rank=8), holdout_rows=8, own={"lr": 5e-3}
    )
    assert outcome == "done" and tracker.series("pref/heldout_accuracy")[-1] >= 0.9
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").exists()
    assert weights(tmp_path / "run").keys() == load_state(micro).keys()


def test_a_rate_that_breaks_the_loss_is_told_and_changes_nothing(micro, tmp_path):
    with pytest.raises(StageFailed, match=r"is nan|not finite"):
        train(micro, tmp_path / "run", own={"lr": 1e30}, steps=8)
    assert not (tmp_path / "run" / "model").exists()
