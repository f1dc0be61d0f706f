"""Milliseconds per weight update, by model size and number format, on the real vLLM.

What each part of an update costs on an engine that rests (medians of ten), and what updates cost
an engine that generates all the time: steps of 20 times the bare sync, with an update in every
second one. Each model has a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, at_most, shown
from posttrain.ports import EngineSpec
from posttrain.rollout.environment import apply_engine_environment
from posttrain.types import Prompt, Sampling

SIZES = ((128, 4), (768, 6))  # (hidden, layers)
REPEATS = 10
VOCABULARY = 128
CONTEXT = 128
STEP_IN_SYNCS = 20  # length of a step, in bare syncs
STEP_PAIRS = 3  # steps with an update, each beside one without
MIN_STEP_S = 1.0
TOKENS_PER_STEP = 1000  # at least, by the resting engine's speed
STREAMS = 64  # answers under way at any time
STALL_SHARE_GOAL = 0.05


def run() -> tuple[list[Figure], dict[str, Any]]:
    figures = []
    for hidden, layers in SIZES:
        for precision in ("fp32", "bf16"):
            row = json.loads(
                subprocess.run(
                    [sys.executable, "-m", __name__, str(hidden), str(layers), precision],
                    check=True,
                    capture_output=True,
                    text=True,
                ).stdout.splitlines()[-1]
            )
            label = f"{row['parameters'] / 1e6:.1f} M {precision}"
            figures += figures_of(label, row)
    return figures, {
        "repeats": REPEATS,
        "answers": 256,
        "tokens_per_answer": 12,
        "step_in_bare_syncs": STEP_IN_SYNCS,
        "answers_under_way": STREAMS,
    }


def figures_of(label: str, row: dict[str, Any]) -> list[Figure]:
    """The goal's figure first, then the times that it is made of."""
    step_ms = 1000 * row["step_s"]
    shares = [stall / step_ms for stall in row["busy_stall_ms"]]
    name = f"{label}, stall per sync, share of a step of {row['step_s']:.1f} s"
    figures = [at_most(name, shares, STALL_SHARE_GOAL, "of the step")]
    for part in ("write_ms", "checksum_ms", "sync_ms", "stall_ms"):
        figures.append(shown(f"{label}, resting: {part.removesuffix('_ms')}", row[part], "ms"))
    figures.append(shown(f"{label}, generating: sync", row["busy_sync_ms"], "ms"))
    figures.append(shown(f"{label}, generating: stall", row["busy_stall_ms"], "ms"))
    figures.append(shown(f"{label}, resting: speed", [row["tokens_per_s"]], "tokens/s"))
    figures.append(shown(f"{label}, steps without sync", row["plain_tokens_per_s"], "tokens/s"))
    figures.append(shown(f"{label}, steps with one", row["synced_tokens_per_s"], "tokens/s"))
    pairs = zip(row["synced_tokens_per_s"], row["plain_tokens_per_s"], strict=True)
    lost = [1 - synced / plain for synced, plain in pairs]
    return [*figures, shown(f"{label}, tokens lost to a sync per step", lost, "share")]


def main(hidden: int, layers: int, precision: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(asyncio.run(measure(folder, hidden, layers, precision))))


async def measure(folder: str, hidden: int, layers: int, precision: str) -> dict[str, Any]:
    """Start an engine on a random model of this size and update it again and again."""
    from posttrain.rollout.vllm_engine import VllmEngine

    spec = EngineSpec(folder, CONTEXT, precision, 128, True, 32, 256)
    apply_engine_environment(spec)  # before torch is imported: one thread, as in an engine's actor
    engine = VllmEngine(spec, "benchmark")
    weights = build_model(folder, hidden, layers, precision)
    begin = time.perf_counter()
    await engine.start()
    row: dict[str, Any] = {
        "parameters": sum(tensor.numel() for tensor in weights.values()),
        "precision": precision,
        "start_s": time.perf_counter() - begin,
        "tokens_per_s": await tokens_per_second(engine),
    }
    row |= await update_costs(engine, weights)
    bare_s = statistics.median(row["sync_ms"]) / 1000
    # Where a number format has no instructions of its own, a second holds no whole token each.
    row["step_s"] = max(MIN_STEP_S, STEP_IN_SYNCS * bare_s, TOKENS_PER_STEP / row["tokens_per_s"])
    row |= await updates_while_generating(engine, weights, row["step_s"])
    await engine.shutdown()
    return row


async def tokens_per_second(engine: Any) -> float:
    """256 seeded answers of 12 tokens side by side, the best of three."""
    starts = [2 + i % 50 for i in range(256)]
    prompts = [Prompt("", "", tuple(range(start, start + 12)), "", {}) for start in starts]
    speeds = []
    for _ in range(3):
        begin = time.perf_counter()
        rollouts = await engine.generate_many(prompts, Sampling(12, seed=1))
        num_tokens = sum(len(rollout.token_ids) for rollout in rollouts)
        speeds.append(num_tokens / (time.perf_counter() - begin))
    return max(speeds)


async def update_costs(engine: Any, weights: dict[str, Any]) -> dict[str, list[float]]:
    """Samples in ms: writing with its checksum, the checksum alone, the update, its stall."""
    from posttrain.weight_sync.checksum import checksum
    from posttrain.weight_sync.flat_file import write_weights
    from posttrain.weight_sync.shared_directory import SharedDirectory

    times: dict[str, list[float]] = {"write": [], "checksum": [], "sync": [], "stall": []}
    with SharedDirectory("benchmark") as shared:
        for version in range(1, REPEATS + 1):
            begin = time.perf_counter()
            published = write_weights(weights, shared.path, version, attempt=0)
            times["write"].append(1000 * (time.perf_counter() - begin))
            begin = time.perf_counter()
            checksum(weights)
            times["checksum"].append(1000 * (time.perf_counter() - begin))
            report = await engine.update_weights(published)
            times["sync"].append(report.sync_ms)
            times["stall"].append(report.stall_ms)
    return {f"{name}_ms": values for name, values in times.items()}


async def updates_while_generating(
    engine: Any, weights: dict[str, Any], step_s: float
) -> dict[str, list[float]]:
    """Steps without and with an update, in turn, while STREAMS answers are always under way."""
    from posttrain.weight_sync.shm_publisher import ShmPublisher

    found: dict[str, list[float]] = {
        name: []
        for name in ("busy_sync_ms", "busy_stall_ms", "plain_tokens_per_s", "synced_tokens_per_s")
    }
    publisher = ShmPublisher("benchmark-generating")
    streams = [asyncio.create_task(stream(engine, number)) for number in range(STREAMS)]
    await asyncio.sleep(1.0)
    for version in range(1, STEP_PAIRS + 1):
        found["plain_tokens_per_s"].append(await one_step(engine, step_s))
        published = await asyncio.to_thread(publisher.prepare, weights, version, 1)
        update = asyncio.create_task(engine.update_weights(published))
        found["synced_tokens_per_s"].append(await one_step(engine, step_s))
        report = await update
        found["busy_sync_ms"].append(report.sync_ms)
        found["busy_stall_ms"].append(report.stall_ms)
    for task in streams:
        task.cancel()
    await asyncio.gather(*streams, return_exceptions=True)
    publisher.close()
    return found


async def stream(engine: Any, number: int) -> None:
    """One answer after the other, of a length of its own so that they do not end together."""
    prompt = Prompt(str(number), "", tuple(range(2 + number % 50, 14 + number % 50)), "", {})
    tokens = 40 + number % 60
    while True:
        await engine.generate(str(number), prompt, 1, Sampling(tokens, seed=number))


async def one_step(engine: Any, step_s: float) -> float:
    """Tokens per second of the next `step_s` seconds."""
    await engine.stats()
    begin = time.perf_counter()
    await asyncio.sleep(step_s)
    tokens = (await engine.stats())["tokens"]
    return tokens / (time.perf_counter() - begin)


def build_model(folder: str, hidden: int, layers: int, precision: str) -> dict[str, Any]:
    """A random Qwen3 with tied embeddings in `folder`; returns its weights by name."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    vocabulary = {chr(0x4E00 + i): i for i in range(VOCABULARY)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 32,
        head_dim=32,
        intermediate_size=4 * hidden,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        eos_token_id=1,
        bos_token_id=0,
        pad_token_id=0,
    )
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    model = Qwen3ForCausalLM(config).to(dtype)
    model.save_pretrained(Path(folder))
    return dict(model.named_parameters())


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
