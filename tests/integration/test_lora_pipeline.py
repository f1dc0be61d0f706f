"""Adapters through the real command line: supervised, online, and what later stages make of it."""

import json

import pytest
import torch

from posttrain.model.load import load_state

PIPELINE = """
name: NAME
seed: 3
cluster: laptop
wandb: {mode: disabled}
stages:
  blank: {kind: model, from_scratch: micro}
  tuned:
    kind: sft
    uses: sft/pretrain
    model: blank
    data: {path: microworld/arithmetic_worked, take: 400}
    lora: {rank: 8}
    steps: 4
  rlvr:
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
  average: {kind: average, pre: tuned, post: rlvr, weight_pre: 0.5}
"""


@pytest.fixture(scope="module")
def stages(workplace):
    """The folder of each stage of one whole run."""
    (workplace.path / "lora.yaml").write_text(PIPELINE.replace("NAME", workplace.name))
    done = workplace.posttrain("run", "lora.yaml")
    assert done.returncode == 0, done.stderr
    names = ("blank", "tuned", "rlvr", "rm", "dpo", "average")
    return {name: workplace.stage_folder(name) for name in names}


def weights_of(folder):
    return load_state(folder / "model")


def changed(before, after):
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_model_folders_are_merged_ones(stages):
    blank, tuned, rlvr = (weights_of(stages[name]) for name in ("blank", "tuned", "rlvr"))
    assert changed(blank, tuned) == {n for n in blank if n.endswith("_proj.weight")}
    of_two = ("q_proj.weight", "v_proj.weight")
    assert changed(tuned, rlvr) == {n for n in tuned if n.endswith(of_two)}


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

    from posttrain.model.load import load_model

    for start, trained in (("blank", "tuned"), ("tuned", "rlvr"), ("tuned", "dpo")):
        base = load_model(stages[start] / "model")
        theirs = PeftModel.from_pretrained(base, stages[trained] / "adapter").merge_and_unload()
        ours = load_model(stages[trained] / "model")
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.allclose(a, b, atol=1e-6)


def test_engine_and_trainer_agree_after_each_adapter(stages):
    rows = [json.loads(line) for line in (stages["rlvr"] / "metrics.jsonl").open()]
    gaps = [r["weights/logprob_gap_max_nats"] for r in rows if "weights/logprob_gap_max_nats" in r]
    assert len(gaps) == 2 and max(gaps) <= 1e-4
    drifts = [r["policy/kl_reference_nats"] for r in rows if "policy/kl_reference_nats" in r]
    # The first answers are the reference's own; then the policy has moved away from it.
    assert len(drifts) == 2 and abs(drifts[0]) <= 1e-3


def test_later_stages_take_it_as_any_other_model(stages):
    tuned, rlvr, mixed = (weights_of(stages[name]) for name in ("tuned", "rlvr", "average"))
    for name, value in mixed.items():
        assert torch.allclose(value, 0.5 * (tuned[name] + rlvr[name]), atol=1e-6)
