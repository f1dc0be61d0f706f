"""Start an engine on a model made here, and see whether its log-probs are the trainer's.

A program of its own, since vLLM reads its environment once per process:

    python -m posttrain.cli.engine_trial FOLDER

Its last line is JSON: `start_s`, `tokens_per_s`, `gap_nats` (the furthest that a sampled token's
log-prob lies from transformers', with the weights it started with), and, where weights travel
through shared memory, `gap_after_update_nats`: the same after an update, in which a swap that
silently did nothing would show.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from posttrain.config.pipeline import Cluster
from posttrain.doctor.gpus import find_gpus
from posttrain.model.load import load_model, load_tokenizer
from posttrain.rollout.vllm_engine import VllmEngine
from posttrain.stages.context import context_length, engine_spec
from posttrain.stages.model import make_from_scratch
from posttrain.types import Prompt, Rollout, Sampling
from posttrain.weight_sync.shm_publisher import ShmPublisher

NUM_ANSWERS = 64
MOST_TOKENS = 64
QUESTION = "sort dbca="
NAME = "doctor"


async def trial(folder: Path) -> dict[str, float]:
    """Raises EngineFailed, and WeightsDiffer where an update cannot be trusted."""
    paths = [str(folder / name) for name in ("first", "second")]
    for seed, path in enumerate(paths):
        make_from_scratch("micro", path, seed)
    first, second = (load_model(path, "fp32", attention="sdpa") for path in paths)
    tokens = tuple(load_tokenizer(paths[0])(QUESTION)["input_ids"])
    prompts = [Prompt(str(i), NAME, tokens, QUESTION, {}) for i in range(NUM_ANSWERS)]
    has_gpu = bool(find_gpus().devices)
    cluster = Cluster(precision="fp32", gpus_per_engine=int(has_gpu))
    spec = engine_spec(cluster, paths[0], context_length(paths[0]))
    engine = VllmEngine(spec, NAME)
    began = time.perf_counter()
    await engine.start()
    found = {"start_s": time.perf_counter() - began}
    try:
        sampling = Sampling(MOST_TOKENS, seed=0)
        began = time.perf_counter()
        answers = await engine.generate_many(prompts, sampling)
        seconds = time.perf_counter() - began
        found["tokens_per_s"] = sum(len(each.token_ids) for each in answers) / seconds
        found["gap_nats"] = _gap(first, answers)
        if spec.weight_sync == "shm":
            with closing(ShmPublisher(NAME)) as publisher:
                weights = dict(second.named_parameters())
                await engine.update_weights(publisher.prepare(weights, 1, 0))
            found["gap_after_update_nats"] = _gap(
                second, await engine.generate_many(prompts, sampling)
            )
    finally:
        await engine.shutdown()
    return found


def _gap(model: Any, answers: Sequence[Rollout]) -> float:
    """Furthest distance between two log-probs of a token, in nats."""
    import torch

    from posttrain.ops.logprobs import selected_logprobs

    furthest = 0.0
    for answer in answers[:8]:
        ids = torch.tensor([answer.prompt_ids + answer.token_ids])
        with torch.no_grad():
            logits = model(ids).logits[0, len(answer.prompt_ids) - 1 : -1]
        truth = selected_logprobs(logits, torch.tensor(answer.token_ids))
        furthest = max(furthest, (truth - torch.tensor(answer.logprobs)).abs().max().item())
    return furthest


if __name__ == "__main__":
    print(json.dumps(asyncio.run(trial(Path(sys.argv[1])))))
