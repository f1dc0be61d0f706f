"""Mistakes that only a tokenizer, a reward or the disk can show: exit code 2, nothing started."""

import json

import pytest

BROKEN_REWARD = '''
"""A reward that fails its own example."""

from posttrain.config.strict import StrictModel
from posttrain.reward.protocol import Example
from posttrain.types import Score


class Config(StrictModel):
    """Settings."""


def score(row, completion, config):
    return Score(float(completion == row["answer"]))


def gold(config): return [Example({"answer": "1,197"}, "1197")]
def bad(config): return [Example({"answer": "2"}, "3")]
'''

BROKEN = """
name: broken
cluster: laptop
stages:
  blank: {kind: model, from_scratch: micro}
  base: {kind: sft, model: blank, data: ./rows.jsonl, steps: 5}
  rlvr:
    kind: online_rl
    model: base
    algorithm: grpo
    reward: ./broken_reward.py
    data: ./questions.jsonl
    batch: {prompts: 4, samples_per_prompt: 2}
    steps: 2
    sampling: {max_new_tokens: 100}
"""


def test_all_that_needs_a_tokenizer_or_a_reward_is_said_at_once(workplace):
    (workplace.path / "broken.yaml").write_text(BROKEN)
    (workplace.path / "broken_reward.py").write_text(BROKEN_REWARD)
    rows = [{"prompt": "copy ab=", "completion": "ab"}, {"prompt": "x" * 200, "completion": "y"}]
    (workplace.path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    questions = [{"prompt": "1+1=", "answer": "2"}, {"prompt": "1" * 60, "answer": "3"}]
    questions += [{"prompt": f"1+{n}=", "answer": str(n + 1)} for n in (2, 3)]
    (workplace.path / "questions.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in questions)
    )
    done = workplace.posttrain("run", "broken.yaml")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error[")]
    assert [line.split("]")[0] for line in lines] == [
        "error[row-too-long",
        "error[prompt-too-long",
        "error[gold-not-one",
    ]
    assert "rows.jsonl:2" in lines[0] and "202 tokens, 128 fit" in lines[0]
    assert "questions.jsonl:2" in lines[1] and "60 tokens, 28 are left" in lines[1]
    assert "'1197' scored 0, not 1" in lines[2]
    assert not (workplace.path / "runs" / "broken").exists()  # nothing half-written
    assert workplace.leftovers() == []


TIGHT = """
name: tight
cluster: laptop
stages:
  blank: {kind: model, from_scratch: micro}
  base: {kind: sft, model: blank, data: microworld/skills, steps: 5}
  rlvr:
    kind: online_rl
    model: base
    algorithm: grpo
    reward: arithmetic
    data: ./questions.jsonl
    batch: {prompts: 4, samples_per_prompt: 2, tokens_per_micro_batch: 60}
    steps: 2
    staleness: {max: 1, ahead: 0}
    sampling: {max_new_tokens: 40}
"""


def test_a_longest_sequence_that_fits_no_micro_batch_is_said_before_the_start(workplace):
    (workplace.path / "tight.yaml").write_text(TIGHT)
    questions = [{"prompt": f"1+{n}=", "answer": str(n + 1)} for n in range(5)]
    questions.append({"prompt": "1+1+1+1+1+1+1+1+1+1+1=", "answer": "11"})
    (workplace.path / "questions.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in questions)
    )
    done = workplace.posttrain("run", "tight.yaml")
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("error["))
    # 22 characters, one token each: 22 + 40 = 62
    assert lines[at : at + 2] == [
        "error[micro-batch-too-small] tight.yaml:13 stages.rlvr.batch.tokens_per_micro_batch: a "
        "micro-batch holds 60 tokens, the longest prompt (22 tokens) and an answer of 40 do not "
        "fit",
        "  help: tokens_per_micro_batch: 62 or more, or a lower sampling.max_new_tokens",
    ]
    assert not (workplace.path / "runs" / "tight").exists()
    assert workplace.leftovers() == []


def test_too_little_disk_is_said_before_the_start(workplace, monkeypatch, tmp_path):
    from posttrain.errors import InputError
    from posttrain.pipeline.disk import check_disk

    with pytest.raises(InputError) as caught:
        check_disk(tmp_path / "runs" / "x", 10**18)
    problem = caught.value.problems[0]
    assert problem.code == "disk-too-small"
    assert "the run needs about 1000000000.0 GB" in problem.message
    assert not (tmp_path / "runs").exists()


def test_no_ray_at_the_address_is_one_clear_line(workplace):
    done = workplace.posttrain(
        "run", "tiny.yaml", "--address", "127.0.0.1:1", "--name", "elsewhere"
    )
    assert done.returncode == 2, done.stderr
    assert "error[no-cluster] --address: no Ray cluster answers at 127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr
