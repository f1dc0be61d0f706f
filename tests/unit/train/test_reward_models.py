"""Reward models through TRL: the loss by hand, members that differ, scores without padding."""

import json
import math

import pytest
import torch
from pair_rows import Recorder, sorted_letters_are_better

from posttrain.algorithms import reward_model
from posttrain.checkpoint.folders import CommittedFolders
from posttrain.config.lora import Lora
from posttrain.errors import InputError, StageFailed
from posttrain.model.folders import member_folders, vocabulary_fingerprint
from posttrain.model.known_prompts import read_known_prompts
from posttrain.model.load import load_state
from posttrain.model.reward import load_reward_model, new_reward_model, score_sequences
from posttrain.model.states import mean_states
from posttrain.reward.fusion import Fusion
from posttrain.reward.reward_models import EnsembleScorer
from posttrain.train.offline import OfflineSettings
from posttrain.train.pairs import hold_out_pairs
from posttrain.train.reward_models import (
    EnsembleShare,
    finish_ensemble,
    member_seed,
    train_members,
)

CONTRAST = ("responses", "instructions", "pairs")


def settings(micro, directory, **changes):
    config = reward_model.Config(lr=2e-3, schedule="constant", warmup_share=0.0)
    values = {
        "directory": directory,
        "model_path": str(micro),
        "objective": reward_model.objective(config),
        "batch_rows": 8,
        "tokens_per_micro_batch": 4096,
        "steps": 20,
        "epochs": None,
        "holdout_rows": 16,
        "seed": 3,
        "precision": "fp32",
    }
    return OfflineSettings(**values | changes)


def train(micro, directory, members=1, stop_asked=lambda: False, share=None, rows=80, **changes):
    directory.mkdir(exist_ok=True)
    tracker = Recorder()
    outcome = train_members(
        settings(micro, directory, **changes),
        sorted_letters_are_better(micro, rows),
        share or EnsembleShare(members),
        tracker,
        stop_asked,
        lambda member: CommittedFolders(directory / "checkpoints" / f"member-{member}"),
    )
    return outcome, tracker


@pytest.fixture(scope="module")
def ensemble(micro, tmp_path_factory):
    """(folder, tracker) of three trained members."""
    directory = tmp_path_factory.mktemp("ensemble")
    outcome, tracker = train(micro, directory, members=3)
    assert outcome == "done"
    return finish_ensemble(directory, 3, tracker), tracker


def test_members_learn_and_say_how_well(ensemble):
    folder, tracker = ensemble
    document = json.loads((folder / "reward_models.json").read_text())
    assert [member["folder"] for member in document["members"]] == ["0", "1", "2"]
    for number, member in enumerate(document["members"]):
        series = tracker.series(f"rm/{number}/pair_accuracy")
        assert series[-1] == member["pair_accuracy"] >= 0.9 > 0.5
        assert 0 <= member["calibration_error"] < 0.3 and member["margin"] > 0
    assert document["together"]["pair_accuracy"] >= 0.9
    assert 0.5 < document["together"]["agreement_share"] <= 1
    assert tracker.series("rm/members_std") == [document["together"]["members_std"]]


def test_an_ensemble_says_whether_it_tells_like_prompts_apart(ensemble, micro, tmp_path):
    train(micro, tmp_path, members=2, rows=320, holdout_rows=64, steps=2)
    tracker = Recorder()
    folder = finish_ensemble(tmp_path, 2, tracker)
    document = json.loads((folder / "reward_models.json").read_text())
    found = {name: document["together"][f"contrast_{name}"] for name in CONTRAST}
    assert found["pairs"] >= 1 and all(0 <= found[name] <= 1 for name in CONTRAST[:2])
    assert all(tracker.series(f"rm/contrast_{name}") == [found[name]] for name in CONTRAST)
    assert all("contrasts" not in member for member in document["members"])
    # Of the 16 rows held out there, no two have prompts that are alike.
    assert ensemble[1].series("rm/contrast_pairs") == []


def test_members_differ_by_their_seeds_alone(ensemble, micro):
    folder, _ = ensemble
    one, two = (load_state(path)["score.weight"] for path in member_folders(folder)[:2])
    assert not torch.equal(one, two)
    heads = [new_reward_model(micro, member_seed(3, m), 0).score.weight for m in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    assert float(heads[0].detach().std()) == pytest.approx(129**-0.5, rel=0.3)
    body = load_state(micro)["model.layers.0.mlp.up_proj.weight"]
    assert torch.equal(new_reward_model(micro, 5, 0).model.layers[0].mlp.up_proj.weight, body)


def test_the_first_loss_is_that_of_the_untrained_scores(micro, tmp_path):
    _, tracker = train(micro, tmp_path, rows=8, steps=1, holdout_rows=0)
    pairs = sorted_letters_are_better(micro, 8)
    model = new_reward_model(micro, member_seed(3, 0), 0)
    scores = [
        score_sequences(model, [sum(p.answers[name], ()) for p in pairs], 4096)
        for name in ("chosen", "rejected")
    ]
    choice = -torch.nn.functional.logsigmoid(scores[0] - scores[1]).mean()
    centre = 0.01 * (scores[0] + scores[1]).square().mean()
    assert tracker.series("train/loss")[0] == pytest.approx(float(choice + centre), rel=1e-4)


def test_the_number_of_micro_batches_changes_nothing(micro, tmp_path):
    _, whole = train(micro, tmp_path / "whole", steps=4)
    _, small = train(micro, tmp_path / "small", steps=4, tokens_per_micro_batch=100)
    for metric in ("train/loss", "train/grad_norm", "rm/train_margin", "rm/train_accuracy"):
        assert small.series(metric) == pytest.approx(whole.series(metric), rel=1e-3, abs=1e-6)


def test_scores_depend_neither_on_padding_nor_on_the_batch(ensemble):
    member = load_reward_model(member_folders(ensemble[0])[0])
    sequences = [[3, 4, 5, 1], [9, 8, 7, 6, 5, 4, 3, 1], [20, 1]]
    together = score_sequences(member, sequences, 4096)
    alone = torch.cat([score_sequences(member, [each], 1) for each in sequences])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    padded = [[*each, *[0] * 5] for each in sequences]  # with what the tokenizer pads with
    torch.testing.assert_close(score_sequences(member, padded, 4096), alone, rtol=0, atol=1e-5)


def test_transformers_scores_a_member_as_we_do(ensemble):
    from transformers import AutoModelForSequenceClassification

    folder = member_folders(ensemble[0])[0]
    plain = AutoModelForSequenceClassification.from_pretrained(folder)
    sequences = [[3, 4, 5, 1], [9, 8, 7, 6, 5, 4, 3, 1]]
    ids = torch.tensor([[3, 4, 5, 1, 0, 0, 0, 0], sequences[1]])
    with torch.no_grad():
        theirs = plain(input_ids=ids, attention_mask=(ids != 0).long()).logits[:, 0]
    ours = score_sequences(load_reward_model(folder), sequences, 4096)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_the_scorer_standardises_with_what_was_stored(ensemble):
    folder, _ = ensemble
    scorer, sequences = EnsembleScorer(folder), [[3, 4, 5, 1], [9, 8, 1]]
    document = json.loads((folder / "reward_models.json").read_text())
    raw = [
        score_sequences(load_reward_model(path), sequences, 64) for path in member_folders(folder)
    ]
    expected = [
        (scores - member["mean"]) / member["std"]
        for scores, member in zip(raw, document["members"], strict=True)
    ]
    torch.testing.assert_close(scorer.standardised(sequences), torch.stack(expected))
    assert len(scorer.scores(sequences)) == 2 and len(scorer.scores(sequences)[0]) == 3


def test_the_ensemble_keeps_its_prompts_with_its_first_members_states(ensemble, micro):
    folder, _ = ensemble
    known = read_known_prompts(folder)
    training, heldout = hold_out_pairs(sorted_letters_are_better(micro, 80), 16, 3)
    assert set(known.prompts) == {pair.prompt for pair in training}
    assert not set(known.prompts) & {pair.prompt for pair in heldout}
    states = mean_states(load_reward_model(member_folders(folder)[0]), known.prompts, 4096)
    torch.testing.assert_close(known.states_ND, states.bfloat16(), rtol=2e-2, atol=1e-3)


def test_a_fused_score_is_the_mean_over_what_is_scored_alone(ensemble, micro):
    folder, _ = ensemble
    scorer, known = EnsembleScorer(folder), read_known_prompts(folder)
    fusion, answer, asked = Fusion(scorer, known, 3), (7, 1), known.prompts[:20]
    alone = scorer.scores([(*prompt, *answer) for prompt in asked])
    found = torch.tensor(fusion.scores([(prompt, answer) for prompt in asked], alone))
    for row, (prompt, alike) in enumerate(zip(asked, fusion.alike(asked), strict=True)):
        pairs = [(prompt, 1.0), *alike]
        scores = torch.tensor(scorer.scores([(*ids, *answer) for ids, _ in pairs]))
        weights = torch.tensor([weight for _, weight in pairs])
        wanted = (weights[:, None] * scores).sum(dim=0) / weights.sum()
        torch.testing.assert_close(found[row], wanted, rtol=1e-4, atol=1e-5)
        assert all(0.9 <= weight <= 1.001 for weight in weights)
    assert not torch.equal(found, torch.tensor(alone))  # some of the prompts are alike


def test_an_ensemble_is_trained_by_two_workers_as_by_one(ensemble, micro, tmp_path):
    for rank in (1, 0):  # not at once: torch's threads would be shared
        train(micro, tmp_path, share=EnsembleShare(3, rank, 2))
    folder = finish_ensemble(tmp_path, 3, Recorder())
    for one, two in zip(member_folders(ensemble[0]), member_folders(folder), strict=True):
        assert torch.equal(load_state(one)["score.weight"], load_state(two)["score.weight"])


def test_stopped_in_a_member_and_gone_on_is_the_same_as_never_stopped(ensemble, micro, tmp_path):
    calls = iter(range(1000))
    outcome, _ = train(micro, tmp_path, members=3, stop_asked=lambda: next(calls) == 30)
    assert outcome == "stopped" and (tmp_path / "members" / "0").exists()
    outcome, tracker = train(micro, tmp_path, members=3)
    assert outcome == "done"
    assert any(name == "restored" and details["step"] > 20 for name, details in tracker.events)
    finish_ensemble(tmp_path, 3, Recorder())
    whole = [load_state(path)["score.weight"] for path in member_folders(ensemble[0])]
    parts = [
        load_state(path)["score.weight"] for path in member_folders(tmp_path / "reward_models")
    ]
    assert all(torch.equal(one, two) for one, two in zip(whole, parts, strict=True))


def test_lora_trains_adapters_and_the_head(micro, tmp_path):
    _, tracker = train(micro, tmp_path, steps=30, lora=Lora(rank=8))
    assert tracker.series("rm/0/pair_accuracy")[-1] >= 0.9
    state = load_state(tmp_path / "members" / "0")
    assert "score.weight" in state and not any("lora" in name for name in state)
    assert not torch.equal(
        state["score.weight"], new_reward_model(micro, member_seed(3, 0), 0).score.weight
    )


def test_a_missing_member_is_named(ensemble, micro, tmp_path):
    train(micro, tmp_path, share=EnsembleShare(2, 0, 2), steps=2)
    with pytest.raises(StageFailed, match="member 1 of the ensemble was not trained"):
        finish_ensemble(tmp_path, 2, Recorder())
    with pytest.raises(InputError, match="no ensemble of reward models"):
        member_folders(tmp_path / "members")


def test_a_folder_that_is_no_reward_model_is_refused(micro):
    with pytest.raises(InputError, match="no sequence-classification model"):
        load_reward_model(micro)


def test_tokenizers_are_told_apart(ensemble, micro, tmp_path):
    member = member_folders(ensemble[0])[0]
    assert vocabulary_fingerprint(member) == vocabulary_fingerprint(micro) != ""
    other = json.loads((micro / "tokenizer.json").read_text())
    other["model"]["vocab"]["a"], other["model"]["vocab"]["b"] = (
        other["model"]["vocab"]["b"],
        other["model"]["vocab"]["a"],
    )
    (tmp_path / "tokenizer.json").write_text(json.dumps(other))
    assert vocabulary_fingerprint(tmp_path) != vocabulary_fingerprint(micro)
    assert math.isfinite(len(vocabulary_fingerprint(tmp_path)))
