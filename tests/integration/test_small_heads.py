"""Models with heads of 8 dimensions on the CPU engine, whose kernel knows none below 32.

Once with a random Llama, always; once with a pretrained one, where its folder is at hand. Truth is
transformers, which pads nothing.
"""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest

from posttrain.ports import EngineSpec
from posttrain.types import Prompt, Sampling
from posttrain.weight_sync.flat_file import write_weights
from posttrain.weight_sync.shared_directory import SharedDirectory

torch = pytest.importorskip("torch")
pytest.importorskip("vllm")

MODELS = Path(os.environ.get("POSTTRAIN_MODELS", "../shared/models"))
CONTEXT = 256
VOCABULARY = 512
START = 1  # <s>
END = 2  # </s>
# 5 blocks of 4 matrices and 2 norms, the embedding, its tied output head, the last norm.
WATCHED_LAYERS = 5 * 6 + 3


def save_random_llama(folder: Path) -> None:
    """A Llama of the pretrained one's shape, with weights large enough to have opinions."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokens = ["<unk>", "<s>", "</s>", *(chr(256 + i) for i in range(VOCABULARY - 3))]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[]))
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=172,
        num_hidden_layers=5,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=8,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=START,
        eos_token_id=END,
        initializer_range=0.15,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)


def load(folder: Path, noise: float = 0.0):
    """The model by transformers; with `noise`, every weight is moved by so much of its size."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():
            step = torch.randn(weight.shape, generator=generator)
            weight.mul_(1 + noise * step)
    return model


class Bench:
    """An engine on a model folder, and the weights that version 0 and 1 of it stand for."""

    def __init__(self, folder: Path) -> None:
        from posttrain.rollout.vllm_engine import VllmEngine

        self.folder = folder
        self.runner = asyncio.Runner()
        self.models = {0: load(folder), 1: load(folder, noise=0.3)}
        self.shared = SharedDirectory("small-heads-test").__enter__()
        spec = EngineSpec(str(folder), CONTEXT, "fp32", 64, True, 32, 64)
        self.engine = VllmEngine(spec, folder.name)
        self.run(self.engine.start())

    def run(self, awaitable):
        return self.runner.run(awaitable)

    def inside(self, function):
        """What `function` says of vLLM's engine, between two steps."""
        return self.run(self.engine._thread.call(function))

    def take(self, version: int) -> None:
        """Publish the weights of a version."""
        weights = dict(self.models[version].named_parameters())
        published = write_weights(weights, self.shared.path, version, attempt=0)
        assert self.run(self.engine.update_weights(published)).version == version

    def close(self) -> None:
        self.run(self.engine.shutdown())
        self.shared.close()
        self.runner.close()


@pytest.fixture(scope="module", params=["random", "stories260K"])
def bench(request, tmp_path_factory):
    if request.param == "random":
        folder = tmp_path_factory.mktemp("random")
        save_random_llama(folder)
    else:
        folder = MODELS / request.param
        if not folder.is_dir():
            pytest.skip(f"no {request.param} model here: set POSTTRAIN_MODELS")
    bench = Bench(folder)
    yield bench
    bench.close()


def prompt(length: int, number: int = 0) -> Prompt:
    tokens = random.Random(1000 * length + number).choices(range(3, VOCABULARY), k=length - 1)
    return Prompt(f"prompt {number}", "test", (START, *tokens), "", {})


def true_logprobs(model, prompt_ids, token_ids, temperature: float = 1.0):
    """[T] log softmax(logits / temperature) of the tokens, by transformers."""
    ids = torch.tensor([[*prompt_ids, *token_ids]])
    with torch.no_grad():
        logits = model(ids).logits[0, len(prompt_ids) - 1 : -1]
    table = torch.log_softmax(logits / temperature, dim=-1)
    return table.gather(1, torch.tensor(token_ids)[:, None])[:, 0]


def furthest(ours, truth) -> float:
    return (torch.tensor(ours) - truth).abs().max().item()


def test_the_cache_holds_padded_heads(bench):
    def specification(engine):
        scheduler = engine.engine_core.engine_core.scheduler
        (group,) = scheduler.kv_cache_config.kv_cache_groups
        return group.kv_cache_spec

    held = bench.inside(specification)
    assert (held.num_kv_heads, held.head_size, held.head_size_v) == (4, 32, 32)
    assert held.page_size_bytes == 32 * 4 * (32 + 32) * 4  # tokens, heads, key and value, fp32


def test_updates_are_checked_on_every_layer(bench):
    def watch(engine):
        return engine.collective_rpc("posttrain_watch", args=(str(bench.folder),))[0]

    layers = bench.inside(watch)
    assert len(layers) == WATCHED_LAYERS
    assert {"lm_head", "model.layers.4.self_attn.qkv_proj"} <= set(layers)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampled_logprobs(bench, temperature):
    asked = prompt(20)
    sampling = Sampling(100, temperature, seed=3)
    version, rollouts = bench.run(bench.engine.generate("g", asked, 8, sampling))
    assert version == 0
    for rollout in rollouts:
        truth = true_logprobs(bench.models[0], asked.token_ids, rollout.token_ids, temperature)
        assert furthest(rollout.logprobs, truth) <= 1e-4
    assert len({rollout.token_ids for rollout in rollouts}) == 8
    assert bench.run(bench.engine.generate("g", asked, 8, sampling)) == (version, rollouts)


def test_token_logprobs_of_given_answers(bench):
    given = [(prompt(12, i).token_ids, prompt(90, 100 + i).token_ids[1:]) for i in range(8)]
    for (asked, tokens), ours in zip(
        given, bench.run(bench.engine.token_logprobs(given)), strict=True
    ):
        assert furthest(ours, true_logprobs(bench.models[0], asked, tokens)) <= 1e-4


def test_greedy_from_the_start_token(bench):
    asked = Prompt("start", "test", (START,), "", {})
    _, (rollout,) = bench.run(bench.engine.generate("g", asked, 1, Sampling(64, 0.0)))
    truth = bench.models[0].generate(
        torch.tensor([[START]]), do_sample=False, max_new_tokens=64, pad_token_id=0
    )
    assert len(rollout.token_ids) == 64
    assert [START, *rollout.token_ids] == truth[0].tolist()
    if bench.folder.name == "stories260K":
        assert rollout.text.startswith(
            "Once upon a time, there was a little girl named Lily. "
            "She loved to play outside in the park. One day, she saw a big, red ball."
        )


def test_updates_reach_every_answer(bench):
    asked = prompt(96)  # three cache blocks: an answer from a stale cache would show
    for version in (0, 1, 0):
        bench.take(version)
        number, rollouts = bench.run(bench.engine.generate("g", asked, 8, Sampling(24, seed=1)))
        assert number == version
        for rollout in rollouts:
            ids = asked.token_ids, rollout.token_ids
            truth, other = bench.models[version], bench.models[1 - version]
            assert furthest(rollout.logprobs, true_logprobs(truth, *ids)) <= 1e-4
            assert furthest(rollout.logprobs, true_logprobs(other, *ids)) > 0.1


def test_the_smallest_size_that_holds_a_head():
    from posttrain.rollout.vllm_small_heads import PaddedAttentionBackend, kernel_head_size

    sizes = PaddedAttentionBackend.get_supported_head_sizes()
    padded = {size: kernel_head_size(size, sizes) for size in (8, 32, 33, 48, 65, 128, 520)}
    # Above vLLM's largest there is nothing to pad to: vLLM says so itself.
    assert padded == {8: 32, 32: 32, 33: 64, 48: 64, 65: 80, 128: 128, 520: 520}
