"""Weights from a trainer's GPU to a vLLM engine's GPU through vLLM's own NCCL transfer engine.

Needs two GPUs (NCCL refuses two ranks on one) and a CUDA build of vLLM; skips, saying so, else.
Run as a program (`VERSION CHECKSUM LOCATION FOLDER`), this file is the engine.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

GPUS = torch.cuda.device_count() if torch.cuda.is_available() else 0
pytestmark = pytest.mark.skipif(GPUS < 2, reason=f"needs 2 GPUs, this machine has {GPUS}")

CONTEXT = 256


def build_model(folder: Path, seed: int):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    vocabulary = {chr(0x4E00 + i): i for i in range(256)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    config = Qwen3Config(
        vocab_size=256,
        hidden_size=512,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        intermediate_size=1024,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        eos_token_id=1,
        pad_token_id=0,
        initializer_range=0.1,
    )
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(config).to(torch.bfloat16).eval()
    model.save_pretrained(folder)
    return model


def test_an_engine_answers_with_the_weights_that_were_broadcast(tmp_path):
    from posttrain.weight_sync.nccl_link import VllmSender
    from posttrain.weight_sync.nccl_publisher import NcclPublisher
    from posttrain.weight_sync.transport import EngineMember

    models = [build_model(tmp_path / str(seed), seed) for seed in range(2)]
    weights = {name: value.cuda(0) for name, value in models[1].named_parameters()}
    publisher = NcclPublisher(
        "127.0.0.1",
        lambda without: [EngineMember("0")],
        lambda version: None,
        lambda version: None,
        partial(VllmSender, 0),
        240.0,
    )
    published = publisher.prepare(weights, 1, 0)
    asked = [published.version, published.checksum, published.location, str(tmp_path / "0")]
    engine = subprocess.Popen(
        [sys.executable, __file__, *map(str, asked)],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    publisher.deliver(published)
    publisher.release(published)
    out, _ = engine.communicate(timeout=300)
    publisher.close()
    assert engine.returncode == 0
    found = json.loads(out.splitlines()[-1])
    assert found["version"] == 1
    print(f"stall {found['stall_ms']:.1f} ms, sync {found['sync_ms']:.1f} ms")
    truth = models[1].float()
    for prompt, tokens, logprobs in found["answers"]:
        with torch.no_grad():
            logits = truth(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        table = torch.log_softmax(logits, -1).gather(1, torch.tensor(tokens)[:, None])[:, 0]
        assert (table - torch.tensor(logprobs)).abs().mean() < 0.05


async def engine_main(version: int, checksum: str, location: str, folder: str) -> None:
    from posttrain.ports import EngineSpec
    from posttrain.rollout.environment import apply_engine_environment

    spec = EngineSpec(folder, CONTEXT, "bf16", 256, True, 16, 64, gpus=1, weight_sync="nccl")
    apply_engine_environment(spec)
    from posttrain.rollout.vllm_engine import VllmEngine
    from posttrain.types import Prompt, Sampling, WeightVersion

    engine = VllmEngine(spec, "0")
    await engine.start()
    report = await engine.update_weights(WeightVersion(0, version, checksum, location))
    prompts = [Prompt(str(i), "", (2 + i, 3 + i, 4 + i), "", {}) for i in range(8)]
    rollouts = await engine.generate_many(prompts, Sampling(32, 1.0, seed=1))
    answers = [(r.prompt_ids, r.token_ids, r.logprobs) for r in rollouts]
    print(
        json.dumps(
            {
                "version": report.version,
                "stall_ms": report.stall_ms,
                "sync_ms": report.sync_ms,
                "answers": answers,
            }
        ),
        flush=True,
    )
    await engine.shutdown()


if __name__ == "__main__":
    asyncio.run(engine_main(int(sys.argv[1]), *sys.argv[2:]))
