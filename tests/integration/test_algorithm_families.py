"""The online stage of every shipped pipeline of a family of algorithms, two steps each, for real.

The stages stand in one file on a random model, so that Ray and the engine start once. The reward
is a dense one: a random model gets no arithmetic right, and nothing would be learnt.
"""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml

PIPELINES = Path(__file__).parents[2] / "pipelines"
FAMILIES = sorted(path.stem for path in PIPELINES.glob("rlvr_*.yaml"))
STEPS = 2


def online_stage(family):
    """As shipped, but small."""
    stage = yaml.safe_load((PIPELINES / f"{family}.yaml").read_text())["stages"]["rlvr"]
    samples = min(4, stage["batch"]["samples_per_prompt"])
    return stage | {
        "model": "blank",
        "reward": {"name": "./short_reward.py", "goal": 5},
        "batch": stage["batch"] | {"prompts": 4, "samples_per_prompt": samples},
        "algorithm": stage["algorithm"] | {"lr": 1e-3},
        "steps": STEPS,
        "sampling": {"max_new_tokens": 8},
        "logprob_check_every": 1,
        "gates": [],
    }


@pytest.fixture(scope="module")
def stages(workplace):
    """The folder of each family's stage, after one run."""
    document = {
        "name": workplace.name,
        "seed": 3,
        "cluster": "laptop",
        "wandb": {"mode": "disabled"},
        "stages": {
            "blank": {"kind": "model", "from_scratch": "micro"},
            **{family: online_stage(family) for family in FAMILIES},
        },
    }
    # One step of the critic alone would leave the policy of a two-step run untouched.
    document["stages"]["rlvr_ppo"]["algorithm"]["critic_warmup_steps"] = 1
    (workplace.path / "families.yaml").write_text(yaml.safe_dump(document))
    done = workplace.posttrain("run", "families.yaml")
    assert done.returncode == 0, done.stderr
    return {name: workplace.stage_folder(name) for name in ("blank", *FAMILIES)}


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").open()]


@pytest.mark.parametrize("family", FAMILIES)
def test_two_steps_change_the_policy_and_engines_follow(stages, family):
    from posttrain.model.load import load_state

    rows = rows_of(stages[family])
    trained = [row for row in rows if "train/loss" in row]
    assert [row["axis/step"] for row in trained] == [0, 1]
    gaps = [r["weights/logprob_gap_max_nats"] for r in rows if "weights/logprob_gap_max_nats" in r]
    assert len(gaps) == STEPS and max(gaps) < 1e-3
    before, after = (load_state(stages[name] / "model") for name in ("blank", family))
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert not any("critic" in name or "score" in name for name in after)


def test_every_greedy_answer_began_with_its_samples_and_is_not_trained_on(stages):
    rows = [row for row in rows_of(stages["rlvr_remax"]) if "train/loss" in row]
    assert all(row["groups/greedy_apart_share"] == 0.0 for row in rows)
    files = sorted((stages["rlvr_remax"] / "rollouts").glob("*.parquet"))
    table = [row for file in files for row in pq.read_table(file).to_pylist()]
    greedy = [row for row in table if row["greedy"]]
    assert len(greedy) == len(table) // 2 == 4 * STEPS
    # an untrained model's likeliest tokens: the same answer for the same prompt and version
    assert {row["sample"] for row in greedy} == {1}


def test_a_critic_learns_before_the_policy_follows_it(stages):
    first, second = (row for row in rows_of(stages["rlvr_ppo"]) if "train/loss" in row)
    assert first["train/warmup"] == 1.0 and "train/grad_norm" not in first
    assert "train/warmup" not in second and second["train/grad_norm"] > 0
    assert first["train/value_loss"] > 0 and first["train/critic_grad_norm"] > 0
