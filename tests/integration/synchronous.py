"""The synchronous algorithm, written straight down: generate all, score all, train, swap, repeat.

No coordinator, no Ray, no worker, one prompt at a time. Run as a program in a process of its own:

    python synchronous.py SETTINGS.json OUT.safetensors
"""

import asyncio
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from safetensors.torch import save_file

from posttrain.config.pipeline import Cluster
from posttrain.config.plugins import load_plugin, plugin_config
from posttrain.loop.settings import draw_seed
from posttrain.model.load import load_model, load_tokenizer
from posttrain.prompts.stream import PromptStream
from posttrain.rollout.vllm_engine import VllmEngine
from posttrain.stages.context import context_length, engine_spec
from posttrain.stages.questions import render_prompts
from posttrain.train.rl_batch import flatten
from posttrain.train.rl_step import RlTrainer, StepSettings
from posttrain.types import RolloutGroup, Sampling, ScoredGroup, TrainBatch
from posttrain.weight_sync.shm_publisher import ShmPublisher


async def train(settings: dict) -> dict:
    torch.set_num_threads(1)
    torch.manual_seed(settings["seed"])
    path, limit = settings["model"], settings["max_new_tokens"]
    room = context_length(path) - limit
    prompts = render_prompts(path, settings["data"], room, None, settings["seed"])
    stream = PromptStream(prompts, settings["seed"])
    longest = max(len(prompt.token_ids) for prompt in prompts)
    engine = VllmEngine(engine_spec(Cluster(), path, longest + limit), "0")
    await engine.start()
    algorithm = load_plugin("algorithm", "grpo", ".")
    reward = load_plugin("reward", settings["reward"]["name"], ".")
    reward_config = plugin_config(reward, settings["reward"]["settings"])
    trainer = RlTrainer(
        load_model(path, "fp32"),
        load_model(path, "fp32"),
        load_tokenizer(path),
        algorithm,
        plugin_config(algorithm, settings["algorithm"]),
        StepSettings(temperature=1.0, tokens_per_micro_batch=8192),
    )
    publisher = ShmPublisher("synchronous")
    count, samples = settings["prompts"], settings["samples_per_prompt"]
    try:
        for step in range(settings["steps"]):
            weights = trainer.policy.published_weights()
            await engine.update_weights(publisher.prepare(weights, step, 0))
            groups = []
            for draw in range(step * count, (step + 1) * count):
                prompt = stream.at(draw)
                sampling = replace(Sampling(limit), seed=draw_seed(settings["seed"], draw))
                start, rollouts = await engine.generate(str(draw), prompt, samples, sampling)
                scores = tuple(reward.score(prompt.row, r.text, reward_config) for r in rollouts)
                group = RolloutGroup(str(draw), draw, prompt, tuple(rollouts), start)
                groups.append(ScoredGroup(group, scores))
            batch = TrainBatch(step, tuple(groups))
            trainer.step(flatten(batch), step, settings["steps"])
    finally:
        publisher.close()
        await engine.shutdown()
    return trainer.policy.weights()


if __name__ == "__main__":
    wanted = json.loads(Path(sys.argv[1]).read_text())
    trained = asyncio.run(train(wanted))
    save_file({name: value.contiguous() for name, value in trained.items()}, sys.argv[2])
