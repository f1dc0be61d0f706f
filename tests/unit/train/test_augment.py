"""Variants of prompts: made from the rows, and trained on where they span the others."""

import json

import pytest
from pair_rows import Recorder

from posttrain import ops
from posttrain.algorithms import reward_model
from posttrain.checkpoint.folders import CommittedFolders
from posttrain.config.offline import Augment
from posttrain.model.known_prompts import read_known_prompts
from posttrain.model.reward import new_reward_model
from posttrain.model.states import mean_states
from posttrain.stages.pair_rows import render_pairs
from posttrain.train.augment import hull_variants
from posttrain.train.offline import OfflineSettings
from posttrain.train.pairs import RenderedPair
from posttrain.train.reward_models import EnsembleShare, finish_ensemble, train_members

DATA = {"path": "microworld/preferences", "take": 60}


@pytest.fixture(scope="module")
def pairs(micro):
    return render_pairs(str(micro), DATA, None, 3, augment=Augment(variants=6)).pairs


def settings(micro, directory):
    objective = reward_model.objective(reward_model.Config(lr=2e-3, warmup_share=0.0))
    return OfflineSettings(directory, str(micro), objective, 8, 4096, 4, None, 12, 3, "fp32")


def test_variants_have_the_same_answers_after_other_prompts(micro, pairs):
    plain = render_pairs(str(micro), DATA, None, 3).pairs
    assert [pair.answers for pair in pairs] == [pair.answers for pair in plain]
    assert all(not pair.variants for pair in plain)
    for pair in pairs:
        prompts = [variant.prompt for variant in pair.variants]
        assert 1 <= len(prompts) <= 6 and len({pair.prompt, *prompts}) == len(prompts) + 1
        for variant in pair.variants:
            assert [said for _, said in variant.answers.values()] == [
                said for _, said in pair.answers.values()
            ]
            assert abs(len(variant.prompt) - len(pair.prompt)) <= 1


def test_variants_are_a_function_of_the_seed_and_the_row(micro, pairs):
    again = render_pairs(str(micro), DATA, None, 3, augment=Augment(variants=6)).pairs
    assert again == pairs
    more = render_pairs(str(micro), DATA | {"take": 70}, None, 3, augment=Augment(variants=6))
    assert more.pairs[:60] == pairs


def test_those_on_the_hull_are_kept(micro, pairs, monkeypatch):
    model = new_reward_model(micro, 0, 0)
    found = hull_variants(model, pairs, settings(micro, micro))
    made = sum(len(pair.variants) for pair in pairs)
    assert 0 < sum(map(len, found)) < made
    for pair, kept in list(zip(pairs, found, strict=True))[:10]:
        states = mean_states(model, [each.prompt for each in pair.variants], 4096)
        corners = ops.convex.hull_of_states(states)
        assert kept == [pair.variants[place] for place in corners]
    monkeypatch.setattr("posttrain.train.augment.AT_ONCE", 7)  # part by part the same
    assert hull_variants(model, pairs, settings(micro, micro)) == found


def test_few_variants_are_all_kept_and_long_ones_are_not(micro):
    def pair(prompt, *variants):
        answers = {"chosen": (prompt, (7, 1)), "rejected": (prompt, (8, 1))}
        return RenderedPair(answers, tuple(pair(each) for each in variants))

    rows = [pair((5, 3), (5, 4)), pair((5, 6)), pair((5, 7, 3), (7, 5), (5, 5, 3), (5, 5, 7, 3))]
    found = hull_variants(new_reward_model(micro, 0, 0), rows, settings(micro, micro))
    assert [[each.prompt for each in kept] for kept in found] == [
        [(5, 4)],
        [],
        [(7, 5), (5, 5, 3)],  # the third would be longer than any row
    ]
    assert hull_variants(new_reward_model(micro, 0, 0), [pair((5, 6))], settings(micro, micro)) == [
        []
    ]


def test_members_train_on_rows_and_variants_and_no_held_out_one(micro, pairs, tmp_path):
    tracker = Recorder()
    outcome = train_members(
        settings(micro, tmp_path),
        pairs,
        EnsembleShare(1),
        tracker,
        lambda: False,
        lambda member: CommittedFolders(tmp_path / "checkpoints"),
    )
    assert outcome == "done"
    ((_, told),) = [event for event in tracker.events if event[0] == "augmented"]
    kept, made = (int(word) for word in told["text"].split(" spelling")[0].split(" of "))
    assert 0 < kept < made and told["text"].endswith(
        "spelling variants of 48 comparisons are trained on"
    )
    epochs = tracker.series("train/epoch")
    assert epochs[-1] == pytest.approx(4 / -(-(48 + kept) // 8), rel=1e-3)  # of 8 rows a step
    folder = finish_ensemble(tmp_path, 1, Recorder())
    assert len(read_known_prompts(folder).prompts) <= 48  # without the variants
    assert json.loads((folder / "reward_models.json").read_text())["heldout_rows"] == 12
