"""A vLLM engine on a tiny model, and the same model in transformers as the truth.

The model has tied embeddings unless told otherwise, and weights large enough that its answers are
not noise.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from pathlib import Path
from typing import Any

import torch

from posttrain.ports import EngineSpec
from posttrain.types import Prompt, Rollout
from posttrain.weight_sync.flat_file import write_weights
from posttrain.weight_sync.shared_directory import SharedDirectory

CONTEXT = 128
END_OF_TURN = 1
VOCABULARY = 64


def build_model(folder: Path, seed: int, tied: bool = True):
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    characters = [chr(48 + i) for i in range(VOCABULARY - 2)]
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", *characters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>"
    ).save_pretrained(folder)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=128,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=tied,
        eos_token_id=END_OF_TURN,
        pad_token_id=0,
        initializer_range=0.15,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config).eval()
    model.save_pretrained(folder)
    return model


class Bench:
    """The engine, the models that were published to it, and a loop to call it from."""

    def __init__(self, folder: Path) -> None:
        from posttrain.rollout.vllm_engine import VllmEngine

        self.runner = asyncio.Runner()
        self.folders = [folder / "first", folder / "second"]
        self.models = [build_model(path, seed) for seed, path in enumerate(self.folders)]
        self.shared = SharedDirectory("engine-test").__enter__()
        self.spec = EngineSpec(str(self.folders[0]), CONTEXT, "fp32", 64, True, 32, 256)
        self.engine = VllmEngine(self.spec, "0")
        self.run(self.engine.start())
        self.version = 0

    def run(self, awaitable):
        return self.runner.run(awaitable)

    def close(self) -> None:
        self.run(self.engine.shutdown())
        self.shared.close()
        self.runner.close()

    def publish(self, model: int):
        """Write the weights of one of the two models as the next version."""
        self.version += 1
        weights = dict(self.models[model].named_parameters())
        return write_weights(weights, self.shared.path, self.version, attempt=0)

    def model_of(self, version: int):
        return self.models[version % 2]


def prompt(length: int, number: int = 0) -> Prompt:
    tokens = random.Random(1000 * length + number).choices(range(2, VOCABULARY), k=length)
    return Prompt(f"prompt {number}", "test", tuple(tokens), "", {})


class HalfWay:
    """While the block lasts, the engine waits for so many requests, makes a dozen steps and then
    stands; functions run between steps all the same. So what is to happen to answers under way
    meets them there, however fast the engine is.
    """

    def __init__(self, engine: Any, requests: int) -> None:
        self._engine = engine._thread.engine  # vLLM's own
        self._requests = requests
        self._left = 12
        self._there = threading.Event()

    def __enter__(self) -> HalfWay:
        self._step, self._engine.step = self._engine.step, self._step_or_stand
        return self

    def __exit__(self, *raised: object) -> None:
        self._engine.step = self._step

    def _step_or_stand(self) -> list[Any]:
        if self._left > 0 and self._requests <= len(self._engine.output_processor.request_states):
            self._requests = 0  # all were here: some may end
            self._left -= 1
            return self._step()
        if self._left == 0:
            self._there.set()
        time.sleep(0.001)
        return []

    async def there(self) -> None:
        """Until the last of the steps is made."""
        assert await asyncio.to_thread(self._there.wait, 60), "the engine made too few steps"


def true_logprobs(model, rollout: Rollout, temperature: float = 1.0) -> list[float]:
    """log softmax(logits / temperature) of the answer's tokens, by transformers."""
    ids = torch.tensor([rollout.prompt_ids + rollout.token_ids])
    with torch.no_grad():
        logits = model(ids).logits[0, len(rollout.prompt_ids) - 1 : -1]
    table = torch.log_softmax(logits / temperature, dim=-1)
    return table.gather(1, torch.tensor(rollout.token_ids)[:, None])[:, 0].tolist()


def furthest(ours, truth) -> float:
    return max(abs(a - b) for a, b in zip(ours, truth, strict=True))
