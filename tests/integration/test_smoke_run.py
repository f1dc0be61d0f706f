"""`run --smoke` through the real command line: a file for GPUs and a large model, run here."""

import json
import signal

import pytest
from conftest import PATIENCE_S
from transformers import Qwen2Config

from posttrain.model.micro import micro_tokenizer

PIPELINE = """
name: NAME
seed: 3
cluster: {engines: 8, trainers: 24, gpus_per_engine: 1, gpus_per_trainer: 1, precision: bf16,
          weight_sync: nccl}
suites:
  abilities: {gain: [microworld/arithmetic], prompts_per_task: 512}
stages:
  base: {kind: model, path: ./large, chat_template: plain}
  rlvr:
    kind: online_rl
    model: base
    algorithm: {name: grpo, lr: 1e-3}
    reward: arithmetic
    data: microworld/arithmetic
    batch: {prompts: 224, samples_per_prompt: 8}
    steps: 446
    staleness: 3
    sampling: {max_new_tokens: 64}
    gates: [arithmetic > 99]
  final: {kind: evaluate, models: [base, rlvr], suite: abilities}
"""


@pytest.fixture(scope="module")
def ran(workplace):
    """The whole run, on a machine that could not hold the model: its weights are not even there.

    It is stopped while its trainer starts, and resumed.
    """
    large = workplace.path / "large"
    Qwen2Config(
        hidden_size=8192, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8,
        intermediate_size=29568, vocab_size=64, max_position_embeddings=128, eos_token_id=1,
    ).save_pretrained(large)  # fmt: skip
    micro_tokenizer().save_pretrained(large)
    (workplace.path / "wide.yaml").write_text(PIPELINE.replace("NAME", workplace.name))
    process = workplace.start("run", "wide.yaml", "--smoke")
    smoke = workplace.path / "runs" / f"{workplace.name}-smoke"
    workplace.wait_for(lambda: list(smoke.glob("rlvr/*/journal")), process)
    process.stdout.close()  # as where `| tee log` had the same Ctrl-C, or the terminal is gone
    process.stderr.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=PATIENCE_S) == 130
    assert json.loads((smoke / "run.json").read_text())["state"] == "stopped"
    done = workplace.posttrain("resume", smoke.name)
    assert done.returncode == 0, done.stderr
    return done


def test_two_steps_of_each_stage_in_a_folder_of_its_own(ran, workplace):
    assert not workplace.run_folder.exists()
    folder = workplace.path / "runs" / f"{workplace.name}-smoke"
    run = json.loads((folder / "run.json").read_text())
    assert (run["state"], run["smoke"]) == ("done", True)
    [manifest] = [json.loads(p.read_text()) for p in folder.glob("rlvr/*/manifest.json")]
    assert (manifest["state"], manifest["steps"]) == ("done", 2)
    [metrics] = folder.glob("rlvr/*/metrics.jsonl")
    rows = [json.loads(line) for line in metrics.open()]
    assert sorted({row["axis/step"] for row in rows if "train/loss" in row}) == [0, 1]
    gaps = [each for row in rows if (each := row.get("weights/logprob_gap_max_nats")) is not None]
    assert gaps and max(gaps) < 1e-3  # engine and trainer were compared
    [config] = [json.loads(p.read_text()) for p in folder.glob("rlvr/*/model/config.json")]
    assert (config["model_type"], config["num_hidden_layers"]) == ("qwen2", 4)


def test_a_gate_that_fails_is_told_and_stops_nothing(ran):
    lines = ran.stderr.splitlines()
    assert any(line.startswith("  gate rlvr: ") and line.endswith("> 99: fail") for line in lines)
    assert lines[-1].startswith("smoke passed in ")
    assert lines[-1].endswith("For real: posttrain run wide.yaml")


def test_it_is_resumed_as_a_smoke_run(ran, workplace):
    assert " ✓ base   kept" in ran.stderr
    again = workplace.posttrain("resume", f"{workplace.name}-smoke")
    assert again.returncode == 0, again.stderr
    assert "3 kept" in again.stderr
    assert "smoke passed in " in again.stderr.splitlines()[-1]
    assert workplace.leftovers() == []
