"""Stages of many kinds in one file on a random model, so that Ray and the engines start once: the
online stage of every shipped pipeline of a family of algorithms, adapters in every kind of stage
that trains, and a stage whose model judges the answers of another. A few steps each, for real.
"""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from online_run import lines
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from posttrain.model.load import load_model, load_state

PIPELINES = Path(__file__).parents[2] / "pipelines"
FAMILIES = sorted(path.stem for path in PIPELINES.glob("rlvr_*.yaml"))
STEPS = 2
STAGES = """
  blank: {kind: model, from_scratch: micro}
  critic: {kind: model, path: ./critic}
  judged:
    kind: online_rl
    model: blank
    algorithm: {name: grpo, lr: 1e-4}
    reward:
      combine: gated
      score: {name: length, low: 1, high: 40}
      judges:
        taste: {name: judge, stage: critic, low: 1, high: 4, pass_at: 2, temperature: 1.0}
      timeout_s: 120
    data: {path: microworld/arithmetic, take: 50}
    batch: {prompts: 4, samples_per_prompt: 3}
    steps: 2
    sampling: {max_new_tokens: 8}
  tuned:
    kind: sft
    uses: sft/pretrain
    model: blank
    data: {path: microworld/arithmetic_worked, take: 400}
    lora: {rank: 8}
    steps: 4
  adapted:
    kind: online_rl
    model: tuned
    algorithm: {name: grpo, lr: 1e-2}
    lora: {rank: 4, targets: [q_proj, v_proj]}
    reward: {name: ./short_reward.py, goal: 5}
    data: {path: microworld/arithmetic, take: 50}
    batch: {prompts: 4, samples_per_prompt: 4}
    steps: 2
    staleness: 1
    sampling: {max_new_tokens: 12}
    logprob_check_every: 1
  rm:
    kind: reward_model
    uses: reward_model/small
    model: tuned
    members: 2
    data: {path: microworld/preferences, take: 200}
    lora: {rank: 8}
    steps: 3
  dpo:
    kind: preference
    uses: preference/small
    model: tuned
    data: "${stages.rm.data}"
    lora: {rank: 8}
    steps: 3
  average: {kind: average, pre: tuned, post: adapted, weight_pre: 0.5}
"""
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


def build_critic(folder):
    """A model that says every byte with the same probability but quotes, which end its texts.

    All it does is its last matrix: what it reads changes nothing.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {letter: number for number, letter in enumerate(sorted(alphabet))}
    vocabulary["<end>"] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
    fast.chat_template = TEMPLATE
    fast.model_max_length = 2048
    fast.save_pretrained(folder)
    config = Qwen3Config(
        vocab_size=len(vocabulary), hidden_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, head_dim=32, intermediate_size=64, max_position_embeddings=2048,
        tie_word_embeddings=False, eos_token_id=vocabulary["<end>"],
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.fill_(1.0)
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        model.lm_head.weight.zero_()
        model.lm_head.weight[vocabulary['"']] = 4.0 / 64  # a logit of 4 where others have 0
    model.save_pretrained(folder)


def online_stage(family):
    """As shipped, but small; with a dense reward: a random model gets no arithmetic right."""
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
    """The folder of each stage, after one run."""
    build_critic(workplace.path / "critic")
    families = {family: online_stage(family) for family in FAMILIES}
    # One step of the critic alone would leave the policy of a two-step run untouched.
    families["rlvr_ppo"]["algorithm"]["critic_warmup_steps"] = 1
    document = {
        "name": workplace.name,
        "seed": 3,
        "cluster": "laptop",
        "wandb": {"mode": "disabled"},
        "stages": yaml.safe_load(STAGES) | families,
    }
    (workplace.path / "many.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    done = workplace.posttrain("run", "many.yaml")
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: workplace.stage_folder(name) for name in document["stages"]}


def rows_of(folder):
    return lines(folder / "metrics.jsonl")


@pytest.mark.parametrize("family", FAMILIES)
def test_two_steps_change_the_policy_and_engines_follow(stages, family):
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


def weights_of(folder):
    return load_state(folder / "model")


def changed(before, after):
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_model_folders_are_merged_ones(stages):
    blank, tuned, adapted = (weights_of(stages[name]) for name in ("blank", "tuned", "adapted"))
    assert changed(blank, tuned) == {n for n in blank if n.endswith("_proj.weight")}
    of_two = ("q_proj.weight", "v_proj.weight")
    assert changed(tuned, adapted) == {n for n in tuned if n.endswith(of_two)}


def test_stages_that_learn_from_comparisons_change_the_adapted_layers_alone(stages):
    tuned, dpo = weights_of(stages["tuned"]), weights_of(stages["dpo"])
    layers = {n for n in tuned if n.endswith("_proj.weight")}
    assert changed(tuned, dpo) == layers
    for member in ("0", "1"):
        found = load_state(stages["rm"] / "reward_models" / member)
        assert changed(tuned, {n: v for n, v in found.items() if n != "score.weight"}) == layers
        assert found["score.weight"].shape[0] == 1


def test_the_adapter_beside_a_model_folder_makes_it_from_the_one_before(stages):
    from peft import PeftModel

    for start, trained in (("blank", "tuned"), ("tuned", "adapted"), ("tuned", "dpo")):
        base = load_model(stages[start] / "model")
        theirs = PeftModel.from_pretrained(base, stages[trained] / "adapter").merge_and_unload()
        ours = load_model(stages[trained] / "model")
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.allclose(a, b, atol=1e-6)


def test_engine_and_trainer_agree_after_each_adapter(stages):
    rows = rows_of(stages["adapted"])
    gaps = [r["weights/logprob_gap_max_nats"] for r in rows if "weights/logprob_gap_max_nats" in r]
    assert len(gaps) == 2 and max(gaps) <= 1e-4
    drifts = [r["policy/kl_reference_nats"] for r in rows if "policy/kl_reference_nats" in r]
    # The first answers are the reference's own; then the policy has moved away from it.
    assert len(drifts) == 2 and abs(drifts[0]) <= 1e-3


def test_later_stages_take_it_as_any_other_model(stages):
    tuned, adapted, mixed = (weights_of(stages[n]) for n in ("tuned", "adapted", "average"))
    for name, value in mixed.items():
        assert torch.allclose(value, 0.5 * (tuned[name] + adapted[name]), atol=1e-6)


def test_answers_are_paid_only_where_the_stage_s_model_is_satisfied(stages):
    stage = stages["judged"]
    rows = [
        row
        for step in sorted((stage / "rollouts").glob("step-*.parquet"))
        for row in pq.read_table(step).to_pylist()
    ]
    assert len(rows) == 2 * 4 * 3
    verdicts = [json.loads(row["parts"])["judge/taste"] for row in rows]
    assert set(verdicts) == {0.0, 1.0}  # a rating of 1 of 4 does not pass; it is drawn at random
    for row, satisfied in zip(rows, verdicts, strict=True):
        assert row["passed"] == bool(satisfied) if row["score"] == 1.0 else True
        assert (row["score"] > 0.0) <= bool(satisfied)
        assert satisfied or row["reason"].startswith("violates taste")


def test_the_share_that_it_refused_is_told_and_its_server_is_gone(stages, workplace):
    stage = stages["judged"]
    shares = [
        row["judge/taste/violated_share"]
        for row in lines(stage / "metrics.jsonl")
        if "judge/taste/violated_share" in row
    ]
    assert len(shares) == 2 and 0.0 < sum(shares) < 2.0
    assert (stage / "judge-critic.log").stat().st_size > 0
    assert workplace.leftovers(70.0) == []
