"""What a reward worker hands to its reward; without a process of its own."""

import pytest

from posttrain.cluster import actors
from posttrain.cluster.actors import RewardActor, packed
from posttrain.reward import score_columns
from posttrain.stages.jobs import PluginRef, ScoringJob
from posttrain.types import Prompt, Rollout, Score

PROMPT = Prompt("rows/1", "rows", (5,), "7+5=", {"prompt": "7+5="})
ANSWER = Rollout("0", 0, (5,), (9, 1), (1,) * 2, (-1.0,) * 2, (0,) * 2, "ab", "stop")


@pytest.mark.parametrize("ensembles", [{}, {"rm": "folder"}])
def test_rows_have_columns_of_scores_only_where_reward_models_score(
    ensembles, tmp_path, monkeypatch
):
    class Columns:
        def __init__(self, *told):
            assert told == (ensembles, (("rm", 2),), ("completion",), "tokenizer")

        def rows(self, prompts, rollouts):
            return [{**prompt.row, "scores": rollouts[0].text} for prompt in prompts]

    class Pool:
        def score(self, rows, answers):
            seen.extend(zip(rows, answers, strict=True))
            return [Score(1.0)]

    seen = []
    monkeypatch.setattr(actors, "_was_restarted", lambda: False)
    monkeypatch.setattr(score_columns, "ScoreColumns", Columns)
    job = ScoringJob(
        reward=PluginRef("reward", "length", {"low": 1, "high": 4, "unit": "characters"}, "."),
        timeout_s=5.0,
        processes=1,
        memory_mb=4096,
        judges={},
        ensembles=ensembles,
        gpus=0,
        directory=str(tmp_path),
        tokenizer_path="tokenizer",
        baselines=("completion",),
        fused=(("rm", 2),),
    )
    actor = RewardActor(job, packed(None))
    monkeypatch.setattr(actor, "_pool", Pool())
    assert actor.score_answers([PROMPT], [ANSWER]) == [Score(1.0)]
    expected = PROMPT.row | ({"scores": "ab"} if ensembles else {})
    assert seen == [(expected, "ab")]
