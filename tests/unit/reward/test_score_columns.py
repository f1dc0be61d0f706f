"""What reward models add to the rows that rewards read."""

import json

import pytest
import torch

from posttrain.model.known_prompts import write_known_prompts
from posttrain.model.load import load_tokenizer
from posttrain.model.reward import new_reward_model
from posttrain.reward.reward_models import EnsembleScorer
from posttrain.reward.score_columns import ScoreColumns
from posttrain.types import BASELINE_SCORES_COLUMN, SCORES_COLUMN, Prompt, Rollout


@pytest.fixture(scope="module")
def ensemble(micro, tmp_path_factory):
    """Two members that nobody has trained."""
    folder = tmp_path_factory.mktemp("ensemble")
    for member in ("0", "1"):
        new_reward_model(micro, int(member), 0).save_pretrained(folder / member)
    members = [{"folder": each, "mean": 0.0, "std": 1.0} for each in ("0", "1")]
    (folder / "reward_models.json").write_text(json.dumps({"members": members}))
    return folder


@pytest.fixture
def row_of(micro, ensemble):
    def row_of(asked, fused=(), baselines=("completion",)):
        prompt, answer = asked
        columns = ScoreColumns({"rm": str(ensemble)}, fused, baselines, str(micro))
        (row,) = columns.rows([prompt], [answer])
        return row

    return row_of


def asked(micro, row):
    tokens = tuple(load_tokenizer(micro)(row["prompt"], add_special_tokens=False)["input_ids"])
    answer = Rollout("0", 0, tokens, (9, 8, 1), (1,) * 3, (-1.0,) * 3, (0,) * 3, "ab", "stop")
    return Prompt("rows/1", "rows", tokens, row["prompt"], row), answer


def test_the_row_s_own_answer_is_scored_beside_the_policy_s(row_of, micro, ensemble):
    prompt, answer = asked(micro, {"prompt": "7+5=", "completion": "12"})
    row = row_of((prompt, answer))
    scorer = EnsembleScorer(ensemble)
    own = tuple(load_tokenizer(micro)("12<eos>", add_special_tokens=False)["input_ids"])
    expected = scorer.scores([prompt.token_ids + answer.token_ids, prompt.token_ids + own])
    assert row["completion"] == "12"
    assert row[SCORES_COLUMN] == {"rm": pytest.approx(expected[0], abs=1e-5)}
    baseline = row[BASELINE_SCORES_COLUMN]["completion"]
    assert baseline == {"rm": pytest.approx(expected[1], abs=1e-5)}


def test_fused_scores_stand_beside_those_after_the_prompt_alone(row_of, micro, ensemble):
    prompt, answer = asked(micro, {"prompt": "7+5=", "completion": "12"})
    alike = prompt.token_ids[:-1]
    states = EnsembleScorer(ensemble).mean_states([alike, prompt.token_ids])
    opposite = torch.cat([states, -states])  # around 0: the first two have a cosine of .97
    write_known_prompts(ensemble, [alike, prompt.token_ids, (3,), (4,)], opposite)
    row = row_of((prompt, answer), fused=(("rm", 2),))
    scores = row[SCORES_COLUMN]
    assert list(scores) == ["rm", "rm, fuse 2"]
    (neighbour,) = EnsembleScorer(ensemble).scores([(*alike, *answer.token_ids)])
    for own, other, fused in zip(scores["rm"], neighbour, scores["rm, fuse 2"], strict=True):
        assert min(own, other) < fused < max(own, other)  # of both, and not of its own twice
    assert set(row[BASELINE_SCORES_COLUMN]["completion"]) == {"rm"}


def test_nothing_more_is_scored_than_rewards_ask_for(row_of, micro):
    row = row_of(asked(micro, {"prompt": "7+5=", "completion": "12"}), baselines=())
    assert set(row) == {"prompt", "completion", SCORES_COLUMN}
