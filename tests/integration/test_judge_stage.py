"""A stage's model judges the answers of another: served by an engine of the run's own."""

import json

import pyarrow.parquet as pq
import pytest
import torch
from online_run import lines
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

PIPELINE = """
name: NAME
seed: 5
cluster: laptop
wandb: {mode: disabled}
stages:
  blank: {kind: model, from_scratch: micro}
  critic: {kind: model, path: ./critic}
  rlvr:
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


@pytest.fixture(scope="module")
def stage(workplace):
    """The stage's folder after a run."""
    build_critic(workplace.path / "critic")
    (workplace.path / "judged.yaml").write_text(PIPELINE.replace("NAME", workplace.name))
    done = workplace.posttrain("run", "judged.yaml")
    assert done.returncode == 0, done.stderr[-3000:]
    return next((workplace.run_folder / "rlvr").iterdir())


def test_answers_are_paid_only_where_the_stage_s_model_is_satisfied(stage):
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


def test_the_share_that_it_refused_is_told_and_its_server_is_gone(stage, workplace):
    shares = [
        row["judge/taste/violated_share"]
        for row in lines(stage / "metrics.jsonl")
        if "judge/taste/violated_share" in row
    ]
    assert len(shares) == 2 and 0.0 < sum(shares) < 2.0
    assert (stage / "judge-critic.log").stat().st_size > 0
    assert workplace.leftovers(70.0) == []
