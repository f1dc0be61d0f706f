"""At staleness 0 the asynchronous engine is the synchronous algorithm, bit for bit on a CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PATIENCE_S

PIPELINE = """
name: parity
seed: 11
cluster: {engines: 1, trainers: 1, cpus: 2}
wandb: {mode: disabled}
stages:
  blank: {kind: model, from_scratch: micro}
"""
STAGE = """
  staleness_MAX:
    kind: online_rl
    model: blank
    algorithm: {name: grpo, lr: 3e-3}
    reward: {name: ./short_reward.py, goal: 5}
    data: {path: microworld/arithmetic, take: 100}
    batch: {prompts: 6, samples_per_prompt: 4}
    steps: 4
    staleness: MAX
    sampling: {max_new_tokens: 16}
    seed: 5
"""


@pytest.fixture(scope="module")
def trained(workplace):
    """The asynchronous run's weights by staleness, and those of the synchronous program."""
    from safetensors.torch import load_file

    bounds = (0, 1)
    stages = "".join(STAGE.replace("MAX", str(bound)) for bound in bounds)
    (workplace.path / "parity.yaml").write_text(PIPELINE + stages)
    done = workplace.posttrain("run", "parity.yaml")
    assert done.returncode == 0, done.stderr
    run = workplace.path / "runs" / "parity"
    weights = {
        bound: load_file(next((run / f"staleness_{bound}").iterdir()) / "model/model.safetensors")
        for bound in bounds
    }
    blank = next((run / "blank").iterdir()) / "model"
    settings = {
        "seed": 5, "model": str(blank), "data": {"path": "microworld/arithmetic", "take": 100},
        "reward": {"name": "./short_reward.py", "settings": {"goal": 5}},
        "algorithm": {"lr": 3e-3}, "prompts": 6, "samples_per_prompt": 4, "steps": 4,
        "max_new_tokens": 16,
    }  # fmt: skip
    (workplace.path / "settings.json").write_text(json.dumps(settings))
    program = Path(__file__).with_name("synchronous.py")
    done = subprocess.run(
        [sys.executable, program, "settings.json", "synchronous.safetensors"],
        cwd=workplace.path, capture_output=True, text=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    weights["synchronous"] = load_file(workplace.path / "synchronous.safetensors")
    return weights


def test_staleness_zero_equals_the_synchronous_algorithm_bit_for_bit(trained):
    expected, found = trained["synchronous"], trained[0]
    names = sorted(set(expected) & set(found))
    assert len(names) >= len(found) - 1  # a tied output head is kept once
    different = [name for name in names if not expected[name].equal(found[name])]
    assert different == []


def test_staleness_one_trains_on_other_answers(trained):
    """Or the test above would prove nothing."""
    same = [name for name in trained[0] if trained[0][name].equal(trained[1][name])]
    assert len(same) < len(trained[0]) / 2
