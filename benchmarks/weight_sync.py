"""Milliseconds per weight update, by model size and number format, on the real vLLM.

    python benchmarks/weight_sync.py                     # 0.9 and 49 million parameters
    python benchmarks/weight_sync.py --hidden 128 --layers 4 --precision fp32

Prints one line of JSON per model: what each part of an update costs (median of ten), and how fast
the engine starts (after imports, from the second line on) and answers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from posttrain.ports import EngineSpec
from posttrain.rollout.environment import apply_engine_environment
from posttrain.types import Prompt, Sampling

SIZES = ((128, 4), (768, 6))  # (hidden, layers)
REPEATS = 10
VOCABULARY = 128
CONTEXT = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--precision", choices=("fp32", "bf16"))
    chosen = parser.parse_args()
    sizes = SIZES if chosen.hidden is None else ((chosen.hidden, chosen.layers),)
    for hidden, layers in sizes:
        for precision in (chosen.precision,) if chosen.precision else ("fp32", "bf16"):
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
    return {key: round(n, 1) if isinstance(n, float) else n for key, n in row.items()}


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


async def update_costs(engine: Any, weights: dict[str, Any]) -> dict[str, float]:
    """Medians in ms: writing with its checksum, the checksum alone, the update, its stall."""
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
    return {f"{name}_ms": statistics.median(values) for name, values in times.items()}


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
    main()
