"""The work that systems are compared on: models, prompts and how long every answer is.

How long an answer is decides what a step costs, and an untrained model says nothing of it. So the
lengths are planned: a pure function of (draw, sample), equal or heavy-tailed, and every system is
made to generate exactly so many tokens. Tokens and weights stay real.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from posttrain.loop.latency import AnswerLengths, LengthTable

SIGMA = 0.91  # of the logarithm, as answers of reasoning models were measured
LONGEST_MEDIANS = 16  # no answer is longer than so many medians

SIZES = {  # hidden, layers, query heads, key heads, head size, feed-forward
    "micro": (128, 3, 4, 2, 32, 512),
    "medium": (256, 4, 8, 4, 32, 1024),
    "small": (384, 6, 6, 2, 64, 1280),
    "large": (768, 8, 12, 4, 64, 2048),
}


@dataclass(frozen=True, slots=True)
class Workload:
    """One comparison's work. Its steps hold `groups_per_step` prompts, each asked K times.

    `sigma` 0 makes all answers `median_tokens` long.
    """

    size: str  # of the model: a key of SIZES
    groups_per_step: int
    samples_per_prompt: int
    num_steps: int
    median_tokens: int
    sigma: float
    seed: int = 0

    @property
    def samples_per_step(self) -> int:
        return self.groups_per_step * self.samples_per_prompt

    @property
    def longest_tokens(self) -> int:
        """No answer of this workload can be longer."""
        return self.median_tokens * (LONGEST_MEDIANS if self.sigma else 1)

    @property
    def context_tokens(self) -> int:
        """Room for a prompt and the longest answer."""
        return PROMPT_TOKENS + self.longest_tokens + 16

    def length(self, draw: int, sample: int) -> int:
        """Tokens of one answer, at least 1: the same for every system that is asked."""
        return self._table().of(draw, sample)

    def lengths(self, draws: range) -> list[int]:
        """Of all samples of these draws, draw after draw."""
        return [self.length(d, s) for d in draws for s in range(self.samples_per_prompt)]

    def _table(self) -> LengthTable:
        lengths = AnswerLengths(self.median_tokens, self.sigma, self.longest_tokens)
        return _table(lengths, self.samples_per_prompt, self.seed)


PROMPT_TOKENS = 12


@cache
def _table(lengths: AnswerLengths, samples_per_prompt: int, seed: int) -> LengthTable:
    """The simulator's own table, so that plan and measurement speak of the same answers."""
    return LengthTable(lengths, samples_per_prompt, seed)


def prompt_text(draw: int) -> str:
    """Every draw asks something else, so nothing is answered from a cache: `sum 000017 =`."""
    return f"sum {draw:06d} ="


REWARD_SOURCE = '''"""The share of letters in an answer: cheap, hardly ever equal in a group."""

from posttrain.config.strict import StrictModel
from posttrain.reward.protocol import Example
from posttrain.types import Score


class Config(StrictModel):
    """Nothing to set."""


def score(row, completion, config):
    return Score(sum(character.isalpha() for character in completion) / max(1, len(completion)))


def gold(config):
    return [Example({}, "ab")]


def bad(config):
    return [Example({}, "12")]
'''


def reward_of(text: str) -> float:
    """What `REWARD_SOURCE` says of an answer."""
    return sum(character.isalpha() for character in text) / max(1, len(text))


def build_model(folder: str | Path, workload: Workload) -> None:
    """Write a random model of the workload's size, with the micro world's tokenizer."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from posttrain.model.micro import micro_model, micro_tokenizer

    tokenizer = micro_tokenizer()
    tokenizer.model_max_length = workload.context_tokens
    hidden, layers, heads, key_heads, head_size, feed_forward = SIZES[workload.size]
    micro: Any = micro_model(tokenizer, workload.seed)
    config = Qwen3Config.from_dict(
        micro.config.to_dict()
        | {
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": key_heads,
            "head_dim": head_size,
            "intermediate_size": feed_forward,
            "max_position_embeddings": workload.context_tokens,
            "layer_types": ["full_attention"] * layers,
            "max_window_layers": layers,
            "initializer_range": 0.02,
        }
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(workload.seed)
        model = Qwen3ForCausalLM(config)
    model.generation_config = micro.generation_config
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def lengths_by_seed(workload: Workload, stage_seed: int, num_draws: int) -> dict[int, int]:
    """Seed of a request -> tokens of its answer; our coordinator seeds by draw and sample."""
    from posttrain.loop.settings import draw_seed

    return {
        draw_seed(stage_seed, draw) + sample: workload.length(draw, sample)
        for draw in range(num_draws)
        for sample in range(workload.samples_per_prompt)
    }


def plan_lengths(engine: Any, lengths: dict[int, int]) -> None:
    """Make a vllm.LLMEngine end each seeded request at its planned length, never before."""
    add_request = engine.add_request

    def add_planned(request_id: str, prompt: Any, params: Any, *others: Any, **named: Any) -> Any:
        if params.seed in lengths and params.max_tokens > 1:
            params.max_tokens = lengths[params.seed]
            params.ignore_eos = True
        return add_request(request_id, prompt, params, *others, **named)

    engine.add_request = add_planned
