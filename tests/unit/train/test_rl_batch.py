"""What a batch says of itself before any training, worked out by hand."""

from dataclasses import replace

import pytest
import torch

from posttrain.train.rl_batch import batch_metrics, flatten
from posttrain.types import Score


def test_flatten_puts_answers_one_after_another(hand_made_batch):
    flat = flatten(hand_made_batch)
    assert [(r.group_id, r.sample) for r in flat.rollouts] == [
        ("4", 0), ("4", 1), ("4", 2), ("5", 0), ("5", 1), ("5", 2), ("6", 0), ("6", 1), ("6", 2),
    ]  # fmt: skip
    assert flat.rewards_GK.tolist() == [[1, 1, 0], [0, 0, 0], [1, 1, 1]]
    assert flat.rewards_GK.dtype == torch.float32
    assert flat.lengths_B.tolist() == [3, 3, 1, 0, 0, 4, 1, 2, 2]
    assert flat.sequences.prompt_lengths_B.tolist() == [2] * 9
    assert flat.sequences.token_ids_S.tolist()[:10] == [1, 4, 5, 6, 2, 1, 4, 5, 6, 2]
    assert flat.mask_T.tolist() == [1] * 12 + [0, 1, 1, 1]
    assert flat.versions_T.tolist() == [2, 2, 3, 2, 2, 2, 3, 1, 1, 1, 1, 3, 3, 3, 3, 3]
    assert flat.cut_B.tolist() == [False, False, True, False, False, True, False, False, False]
    expected = torch.tensor([5, 6, 2, 5, 6, 2, 7, 8, 8, 8, 8, 9, 9, 2, 9, 3]) * -0.1
    torch.testing.assert_close(flat.behaviour_logprobs_T, expected)


def test_denominators(hand_made_batch):
    chosen_B = flatten(hand_made_batch).chosen_tokens_B
    # of 16 tokens one is an environment's; of 9 answers two are empty
    assert chosen_B.tolist() == [3, 3, 1, 0, 0, 4, 1, 1, 2]


def test_an_answer_without_a_token_of_the_policy_is_no_sequence(hand_made_batch):
    first = hand_made_batch.groups[0]
    silent = replace(first.group.rollouts[0], mask=(0, 0, 0))
    group = replace(first.group, rollouts=(silent, *first.group.rollouts[1:]))
    flat = flatten(replace(hand_made_batch, groups=(replace(first, group=group),)))
    assert flat.chosen_tokens_B.tolist() == [0, 3, 1]


def test_groups_of_different_sizes_are_refused(hand_made_batch):
    first, second, _ = hand_made_batch.groups
    shorter = replace(
        second,
        group=replace(second.group, rollouts=second.group.rollouts[:2]),
        scores=second.scores[:2],
    )
    with pytest.raises(ValueError):
        flatten(replace(hand_made_batch, groups=(first, shorter)))


def test_every_metric_of_a_batch(hand_made_batch):
    assert batch_metrics(hand_made_batch, flatten(hand_made_batch)) == pytest.approx(
        {
            "reward/mean": 5 / 9,
            "reward/std": 20**0.5 / 9,  # sqrt(5/9 * 4/9)
            "reward/pass_share": 5 / 9,
            "reward/pass_at_k": 2 / 3,  # draws 4 and 6
            "groups/trained": 3.0,
            "groups/no_signal_share": 2 / 3,  # draws 5 and 6
            "groups/all_right_share": 1 / 3,
            "groups/all_wrong_share": 1 / 3,
            "groups/identical_share": 2 / 9,  # one repeat in draw 4, one in draw 5
            "answer/length_tokens": 16 / 9,
            "answer/cut_share": 2 / 9,
            "answer/empty_share": 2 / 9,
            "answer/right_length_tokens": 11 / 5,  # 3 3 1 2 2
            "answer/wrong_length_tokens": 5 / 4,  # 1 0 0 4
            "age/versions/mean": 13 / 16,  # five tokens of age 1, four of age 2, seven of age 0
            "age/versions/max": 2.0,
            "age/share/0": 7 / 16,
            "age/share/1": 5 / 16,
            "age/share/2": 4 / 16,
            "age/multi_version_share": 1 / 9,
            "age/wait_s": 0.5,
            "reward/parts/format": 1.0,  # of the answers that have this part
        }
    )


def test_sources_and_judges_are_told_apart(hand_made_batch):
    """Of three prompts two come from one source; one of its answers violates a judge."""
    sources, parts = ("sums", "words", "sums"), ({"judge/short": 1.0}, {}, {"judge/short": 0.0})
    groups = tuple(
        replace(
            scored,
            group=replace(scored.group, prompt=replace(scored.group.prompt, source=source)),
            scores=(replace(scored.scores[0], parts=part), *scored.scores[1:]),
        )
        for scored, source, part in zip(hand_made_batch.groups, sources, parts, strict=True)
    )
    batch = replace(hand_made_batch, groups=groups)
    metrics = batch_metrics(batch, flatten(batch))
    values = [[score.value for score in scored.scores] for scored in groups]
    assert metrics["reward/sums/mean"] == pytest.approx(sum(values[0] + values[2]) / 6)
    assert metrics["reward/words/mean"] == pytest.approx(sum(values[1]) / 3)
    assert metrics["judge/short/violated_share"] == 0.5


def test_parts_of_scores_are_tensors_with_nan_where_there_is_none(hand_made_batch):
    parts = flatten(hand_made_batch).reward_parts
    assert set(parts) == {"format"}
    expected = torch.full((3, 3), float("nan"))
    expected[0, :2] = 1.0  # the right answers of draw 4 have it
    torch.testing.assert_close(parts["format"], expected, equal_nan=True)


def test_without_an_opinion_a_value_of_one_is_right(hand_made_batch):
    groups = tuple(
        replace(scored, scores=(Score(1.5), Score(0.99), Score(1.0)))
        for scored in hand_made_batch.groups
    )
    batch = replace(hand_made_batch, groups=groups)
    metrics = batch_metrics(batch, flatten(batch))
    assert metrics["reward/pass_share"] == pytest.approx(2 / 3)
    assert metrics["reward/mean"] == pytest.approx(3.49 / 3)


def test_the_opinion_of_the_reward_counts_more_than_its_value(hand_made_batch):
    groups = tuple(
        replace(scored, scores=(Score(0.2, True), Score(5.0, False), Score(0.0, False)))
        for scored in hand_made_batch.groups
    )
    batch = replace(hand_made_batch, groups=groups)
    assert batch_metrics(batch, flatten(batch))["reward/pass_share"] == pytest.approx(1 / 3)


def test_where_all_are_right_nothing_is_said_of_wrong_ones(hand_made_batch):
    batch = replace(hand_made_batch, groups=hand_made_batch.groups[2:])
    metrics = batch_metrics(batch, flatten(batch))
    assert "answer/wrong_length_tokens" not in metrics
    assert metrics["answer/right_length_tokens"] == pytest.approx(5 / 3)
    assert metrics["groups/no_signal_share"] == 1.0
    assert metrics["age/versions/max"] == 0.0
    assert metrics["age/share/0"] == 1.0


def test_nothing_but_empty_answers_has_no_ages(hand_made_batch):
    second = hand_made_batch.groups[1]
    empty = replace(
        second,
        group=replace(second.group, rollouts=second.group.rollouts[:2]),
        scores=second.scores[:2],
    )
    batch = replace(hand_made_batch, groups=(empty,))
    flat = flatten(batch)
    assert flat.chosen_tokens_B.tolist() == [0, 0]
    metrics = batch_metrics(batch, flat)
    assert metrics["answer/empty_share"] == 1.0
    assert metrics["groups/identical_share"] == 0.5
    assert metrics["age/versions/mean"] == 0.0
    assert [name for name in metrics if name.startswith("age/share/")] == []
    assert all(value == value for value in metrics.values()), "no NaN"


def with_greedy(batch):
    """Greedy answers: draw 4's is sample 0's answer, draw 5's empty, draw 6's under version 2."""
    answers = [((5, 6, 2), (2, 2, 3), 1.0), ((), (), 0.0), ((9, 3), (2, 3), 0.25)]
    groups = []
    for scored, (tokens, versions, score) in zip(batch.groups, answers, strict=True):
        first = scored.group.rollouts[0]
        greedy = replace(
            first,
            sample=3,
            token_ids=tokens,
            versions=versions,
            mask=(1,) * len(tokens),
            logprobs=(-0.1,) * len(tokens),
            finish="stop",
        )
        group = replace(scored.group, greedy=greedy)
        groups.append(replace(scored, group=group, greedy_score=Score(score)))
    return replace(batch, groups=tuple(groups))


def test_greedy_answers_are_baselines_and_never_trained_on(hand_made_batch):
    batch = with_greedy(hand_made_batch)
    flat = flatten(batch)
    assert flat.greedy_rewards_G.tolist() == [1.0, 0.0, 0.25]
    assert len(flat.rollouts) == 9 and len(flat.mask_T) == 16
    metrics = batch_metrics(batch, flat)
    assert metrics["reward/greedy_mean"] == pytest.approx(1.25 / 3)
    # the same as samples 0 and 1 of draw 4, 0 and 1 of draw 5, 2 of draw 6
    assert metrics["groups/greedy_identical_share"] == pytest.approx(5 / 9)
    # first tokens: draw 4's third sample began under 3, draw 5's third under 1; draw 6's under 3
    assert metrics["groups/greedy_apart_share"] == pytest.approx(5 / 9)
    assert metrics["answer/greedy_length_tokens"] == pytest.approx(5 / 3)
    assert metrics["answer/greedy_cut_share"] == 0.0


def test_a_group_without_its_greedy_answer_is_refused(hand_made_batch):
    first, *others = with_greedy(hand_made_batch).groups
    lacking = replace(first, greedy_score=None)
    with pytest.raises(ValueError, match="2 of 3 groups"):
        flatten(replace(hand_made_batch, groups=(lacking, *others)))
