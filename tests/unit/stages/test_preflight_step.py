"""What is asked of the data before the first stage starts, with every prompt counted."""

import json

import pytest

from posttrain.config.document import Places
from posttrain.config.pipeline import OnlineRlStage
from posttrain.stages.preflight import Origin, PreflightRequest, inspect

MICRO = Origin(None, "micro", None)
PLACES = Places(
    {
        "stages.rlvr.batch.prompts": ("mine.yaml", 14),
        "stages.rlvr.batch.tokens_per_micro_batch": ("mine.yaml", 15),
    }
)


@pytest.fixture
def looked_at(tmp_path):
    """`looked_at(prompts, batch, max_new_tokens)`: the problems of a stage with these prompts."""

    def look(prompts, batch, max_new_tokens=8, **more):
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps({"prompt": p, "answer": "1"}) + "\n" for p in prompts))
        stage = OnlineRlStage.model_validate(
            {
                "kind": "online_rl",
                "model": "base",
                "algorithm": "grpo",
                "reward": "arithmetic",
                "data": str(file),
                "batch": batch,
                "steps": 2,
                "sampling": {"max_new_tokens": max_new_tokens},
                **more,
            }
        )
        request = PreflightRequest(
            "rlvr",
            "online_rl",
            MICRO,
            stage.data.model_dump(),
            max_new_tokens,
            online=stage,
            places=PLACES,
        )
        return [problem.render() for problem in inspect([request])]

    return look


def test_different_prompts_are_counted(looked_at):
    prompts = ["1+1=", "1+2=", "1+1=", "1+3="]
    assert looked_at(prompts, {"prompts": 3}) == []
    assert looked_at(prompts, {"prompts": 4}) == [
        "error[too-few-prompts] mine.yaml:14 stages.rlvr.batch.prompts: 4 prompts per step, but "
        "the data holds 3 different ones\n  help: prompts: 3, or more rows"
    ]
    assert looked_at(prompts, {"prompts": 3}, heldout={"prompts": 3}) == [
        "error[too-few-prompts] mine.yaml:14 stages.rlvr.batch.prompts: 3 prompts per step, but "
        "the data holds 3 different ones, 3 of them held out\n"
        "  help: more rows, or fewer held out"
    ]


def test_rows_without_the_column_that_the_reward_reads_are_found(looked_at):
    (problem,) = looked_at(["1+1="], {"prompts": 1}, reward={"name": "countdown"})
    assert problem.startswith("error[bad-row]")
    assert "reward `countdown` cannot score answers to" in problem
    assert "the row has no column `nums`; it has `prompt`, `answer`" in problem


def test_rows_without_the_answer_that_a_reward_model_s_score_is_compared_with_are_found(looked_at):
    judges = {"short": {"name": "length", "high": 5}}
    calibrated = {"name": "calibrated", "score": {"ensemble": "rm"}}
    reward = {"combine": "gated", "score": calibrated, "judges": judges}
    (problem,) = looked_at(["1+1="], {"prompts": 1}, reward=reward)
    assert problem.startswith("error[bad-row]")
    assert "calibrated: the row has no column `completion`; it has `prompt`, `answer`" in problem
    calibrated["baseline_column"] = "answer"
    assert looked_at(["1+1="], {"prompts": 1}, reward=reward) == []


def test_scores_that_a_reward_wants_fused_are_taken_to_be_there(looked_at):
    fused = {"combine": "weighted", "parts": {"liked": {"reward": {"ensemble": "rm", "fuse": 3}}}}
    assert looked_at(["1+1=", "1+2="], {"prompts": 2}, reward=fused) == []


def test_a_reward_may_ask_for_some_members_of_an_ensemble(looked_at):
    reward = {"ensemble": "rm", "members": 3}
    assert looked_at(["1+1=", "1+2="], {"prompts": 2}, reward=reward) == []


def test_prompts_left_out_do_not_count(looked_at):
    prompts = ["1+1=", "1+2=", "1" * 200]
    data_problem = looked_at(prompts, {"prompts": 3})
    assert data_problem[0].startswith("error[prompt-too-long]")


def test_the_longest_sequence_fits_into_a_micro_batch(looked_at):
    prompts = ["1+1=", "1+11111="]  # 8 tokens, one a character; 8 + 8 = 16
    assert looked_at(prompts, {"prompts": 2, "tokens_per_micro_batch": 16}) == []
    assert looked_at(prompts, {"prompts": 2, "tokens_per_micro_batch": 15}) == [
        "error[micro-batch-too-small] mine.yaml:15 stages.rlvr.batch.tokens_per_micro_batch: a "
        "micro-batch holds 15 tokens, the longest prompt (8 tokens) and an answer of 8 do not fit\n"
        "  help: tokens_per_micro_batch: 16 or more, or a lower sampling.max_new_tokens"
    ]
