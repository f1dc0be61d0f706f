"""What ReMax saves: the same model, batch and number of optimiser steps, beside PPO with a critic.

Trainer: each in a process of its own that holds nothing else, after the imports; peak memory is
counted above what the process had then (resident, asked of the kernel), a step is timed from batch
to weights. PPO makes one pass over a batch, ReMax too. Both charge the KL in the reward, so both
keep a reference. Turns alternate.

Whole system: two `posttrain run`s of one file, which differ in the algorithm: ReMax generates a
greedy answer more per prompt. Samples trained per second.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, at_least, at_most, shown
from benchmarks.product import ProductSettings, run_product, step_seconds
from benchmarks.workload import PROMPT_TOKENS, Workload, build_model

ANSWER_TOKENS = 64
TRAINED = Workload("large", 16, 1, num_steps=4, median_tokens=ANSWER_TOKENS, sigma=0.0)
SYSTEM = replace(TRAINED, num_steps=5)
ROUNDS = 3
STEPS, WARM_UP = 3, 1
SYSTEM_WARM_UP = 2
THREADS = 2
ALGORITHMS = {"remax": {}, "ppo": {"critic": "policy"}}


def run() -> tuple[list[Figure], dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        build_model(Path(folder) / "model", TRAINED)
        rounds = [{name: _alone(name, folder) for name in ALGORITHMS} for _ in range(ROUNDS)]
        speeds = {name: _system(name, Path(folder) / name) for name in ALGORITHMS}
    memory = [each["remax"]["peak_bytes"] / each["ppo"]["peak_bytes"] for each in rounds]
    speed = [each["ppo"]["step_s"] / each["remax"]["step_s"] for each in rounds]
    figures = [
        at_most("trainer's peak memory above its baseline, ReMax / PPO", memory, 0.6, ""),
        at_least("trainer's steps per second, ReMax / PPO", speed, 1.6, "x"),
        shown("parameters", [rounds[0]["remax"]["parameters"] / 1e6], "M"),
    ]
    for name in ALGORITHMS:
        peaks = [each[name]["peak_bytes"] / 1e6 for each in rounds]
        figures.append(shown(f"{name}, peak above baseline", peaks, "MB"))
        figures.append(shown(f"{name}, step", [each[name]["step_s"] for each in rounds], "s"))
        figures.append(shown(f"{name}, whole system", [speeds[name]], "samples/s"))
    ratio = [speeds["remax"] / speeds["ppo"]]
    return [*figures, shown("whole system, ReMax / PPO", ratio, "x")], {
        "prompts": TRAINED.groups_per_step,
        "samples_per_prompt": TRAINED.samples_per_prompt,
        "answer_tokens": ANSWER_TOKENS,
        "ppo_epochs": 1,
        "threads": THREADS,
        "algorithms": ALGORITHMS,
    }


def _alone(name: str, folder: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", __name__, name, folder],
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def _system(name: str, folder: Path) -> float:
    settings = ProductSettings(algorithm={"name": name, **ALGORITHMS[name]}, proximal="behaviour")
    rows = run_product(folder, SYSTEM, settings)
    seconds = step_seconds(rows)[SYSTEM_WARM_UP:-1]
    return SYSTEM.samples_per_step / statistics.fmean(seconds)


# -- one trainer, in a process of its own -------------------------------------------------------


def train(name: str, folder: str) -> dict[str, float]:
    """A few steps on batches made up here, of the workload's size."""
    import torch

    from posttrain.config.plugins import load_plugin
    from posttrain.model.load import load_model, load_tokenizer
    from posttrain.train.critic import critic_module
    from posttrain.train.rl_batch import flatten
    from posttrain.train.rl_step import RlTrainer, StepSettings

    torch.set_num_threads(THREADS)
    model_path = f"{folder}/model"
    algorithm = load_plugin("algorithm", name)
    tokenizer = load_tokenizer(model_path)
    torch.ones(256, 256) @ torch.ones(256, 256)  # the kernels' own buffers are no model's
    baseline = _memory("VmRSS")
    policy: Any = load_model(model_path)
    critic = None
    if algorithm.NEEDS.critic:
        critic = critic_module("policy", model_path, policy)
    trainer = RlTrainer(
        policy,
        load_model(model_path),
        tokenizer,
        algorithm,
        algorithm.Config(lr=1e-6, **ALGORITHMS[name]),
        StepSettings(1.0, 4096),
        critic=critic,
    )
    seconds = []
    for step in range(STEPS):
        flat = flatten(_batch(step, algorithm.NEEDS.greedy))
        began = time.perf_counter()
        trainer.step(flat, step, STEPS)
        seconds.append(time.perf_counter() - began)
    return {
        "peak_bytes": _memory("VmHWM") - baseline,
        "step_s": statistics.median(seconds[WARM_UP:]),
        "parameters": sum(p.numel() for p in policy.parameters()),
    }


def _batch(step: int, greedy: bool) -> Any:
    import random

    from posttrain.types import Prompt, Rollout, RolloutGroup, Score, ScoredGroup, TrainBatch

    dice = random.Random(step)

    def answer(draw: int, sample: int, prompt: Prompt) -> Rollout:
        tokens = tuple(dice.randint(3, 60) for _ in range(ANSWER_TOKENS))
        ones = (1,) * ANSWER_TOKENS
        logprobs = tuple(-4.1 + 0.1 * dice.random() for _ in tokens)
        versions = (step,) * ANSWER_TOKENS
        return Rollout(
            str(draw), sample, prompt.token_ids, tokens, ones, logprobs, versions, "", "stop"
        )

    groups = []
    for draw in range(TRAINED.groups_per_step):
        ids = tuple(dice.randint(3, 60) for _ in range(PROMPT_TOKENS))
        prompt = Prompt(str(draw), "made up", ids, "", {})
        group = RolloutGroup(
            str(draw),
            draw,
            prompt,
            (answer(draw, 0, prompt),),
            step,
            answer(draw, 1, prompt) if greedy else None,
        )
        score = Score(float(dice.random() < 0.5))
        groups.append(ScoredGroup(group, (score,), Score(0.5) if greedy else None))
    return TrainBatch(step, tuple(groups))


def _memory(name: str) -> float:
    """Bytes, as the kernel counts them: VmRSS now, VmHWM at the most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024.0 * int(line.split()[1])
    raise RuntimeError(f"the kernel does not tell {name}")


if __name__ == "__main__":
    print(json.dumps(train(*sys.argv[1:])))
