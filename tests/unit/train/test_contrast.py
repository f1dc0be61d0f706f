"""Held-out comparisons paired by prompts that are alike, and what an ensemble says of them."""

import pytest
import torch
from pair_rows import sorted_letters_are_better

from posttrain.algorithms import reward_model
from posttrain.model.reward import new_reward_model, score_sequences
from posttrain.train.contrast import contrast_metrics, find_contrasts, score_contrasts
from posttrain.train.offline import OfflineSettings
from posttrain.train.pairs import RenderedPair

MEANS, STDS = torch.tensor([0.0, 10.0]), torch.tensor([1.0, 2.0])


def settings(micro):
    objective = reward_model.objective(reward_model.Config())
    return OfflineSettings(micro, str(micro), objective, 8, 4096, 4, None, 16, 3, "fp32")


def pair(prompt, chosen, rejected=(9, 1)):
    return RenderedPair({"chosen": (prompt, chosen), "rejected": (prompt, rejected)})


def test_prompts_that_are_alike_are_found_and_the_same_is_not(micro):
    rows = sorted_letters_are_better(micro, 60)
    model = new_reward_model(micro, 0, 0)
    found = find_contrasts(model, rows, settings(micro))
    assert found and found == sorted(set(found)) and all(one < two for one, two in found)
    assert all(rows[one].prompt != rows[two].prompt for one, two in found)
    chosen = [[rows[i].answers["chosen"][1] for i in both] for both in found]
    assert all(one != two for one, two in chosen)
    assert find_contrasts(model, rows, settings(micro)) == found
    assert find_contrasts(model, rows[:1], settings(micro)) == []
    assert find_contrasts(model, [rows[0]] * 5, settings(micro)) == []


def test_no_answer_is_put_behind_a_prompt_that_leaves_it_no_room(micro):
    long = sorted_letters_are_better(micro, 60)
    short = [pair(row.prompt, row.answers["chosen"][1][:1]) for row in long]
    rows = [*long, *short]
    for one, two in find_contrasts(new_reward_model(micro, 0, 0), rows, settings(micro)):
        longest = max(row.length("rejected") for row in rows)
        assert len(rows[one].prompt) + len(rows[two].answers["chosen"][1]) <= longest
        assert len(rows[two].prompt) + len(rows[one].answers["chosen"][1]) <= longest


def test_both_answers_are_scored_behind_both_prompts(micro):
    rows = [pair((5, 3), (7, 1)), pair((5, 4), (8, 6, 1)), pair((6, 3), (7, 8, 1))]
    model = new_reward_model(micro, 0, 0)
    found = score_contrasts(model, rows, [(0, 2), (1, 2)], settings(micro))
    by_hand = [[5, 4, 8, 6, 1], [5, 4, 7, 8, 1], [6, 3, 8, 6, 1], [6, 3, 7, 8, 1]]
    assert [each[:2] for each in found] == [[0, 2], [1, 2]]
    assert found[1][2:] == pytest.approx(score_sequences(model, by_hand, 64).tolist(), abs=1e-5)
    assert score_contrasts(model, rows, [], settings(micro)) == []


def test_what_members_say_is_standardised_and_averaged():
    one = [[0, 1, 0.9, 0.1, 0.5, 0.7], [2, 5, 0.2, 0.4, 0.1, 0.6]]
    two = [[0, 1, 10.0, 10.0, 10.0, 10.0], [2, 5, 11.0, 10.0, 10.0, 10.0]]
    # The second pair: .2 + .5 > .4, so I1 prefers r1 where the first member alone prefers r2.
    assert contrast_metrics([one, two], MEANS, STDS) == {
        "contrast_responses": 1.0,
        "contrast_instructions": 1.0,
        "contrast_pairs": 2.0,
    }
    alone = contrast_metrics([one], MEANS[:1], STDS[:1])
    assert alone["contrast_responses"] == 0.75


def test_pairs_count_that_every_member_scored():
    row = [0.9, 0.1, 0.5, 0.7]
    found = contrast_metrics([[[0, 1, *row], [2, 3, *row]], [[2, 3, *row]]], MEANS, STDS)
    assert found["contrast_pairs"] == 1.0
    assert contrast_metrics([[], []], MEANS, STDS) == {}
    assert contrast_metrics([[[0, 1, *row]], [[2, 3, *row]]], MEANS, STDS) == {}
