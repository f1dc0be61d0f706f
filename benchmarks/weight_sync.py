"""Milliseconds per weight update, by model size and number format, on the real vLLM.

What each part of an update costs (medians of ten), and how fast the engine answers. Each model has
a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, shown
from posttrain.ports import EngineSpec
from posttrain.rollout.environment import apply_engine_environment
from posttrain.types import Prompt, Sampling

SIZES = ((128, 4), (768, 6))  # (hidden, layers)
REPEATS = 10
VOCABULARY = 128
CONTEXT = 128


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
            for name in ("write_ms", "checksum_ms", "sync_ms", "stall_ms"):
                figures.append(shown(f"{label}, {name.removesuffix('_ms')}", row[name], "ms"))
            figures.append(shown(f"{label}, speed", [row["tokens_per_s"]], "tokens/s"))
    return figures, {"repeats": REPEATS, "answers": 256, "tokens_per_answer": 12}


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
    await engine.shutdown()
    return row


async def tokens_per_second(engine: Any) -> float:
    """256 seeded answers of 12 tokens side by side, the best of five."""
    starts = [2 + i % 50 for i in range(256)]
    prompts = [Prompt("", "", tuple(range(start, start + 12)), "", {}) for start in starts]
    speeds = []
    for _ in range(5):
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
