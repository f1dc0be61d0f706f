"""Our records as vLLM's requests, and vLLM's answers as our records."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from functools import lru_cache
from typing import Any

from posttrain.rollout.samples import Partial, SampleTask
from posttrain.types import Prompt, Rollout, Sampling

LARGEST_SEED = 2**63 - 1
NOTHING = Partial((), (), (), 0)


def prompt_input(token_ids: Sequence[int]) -> Any:
    """Token ids as they are: nothing is tokenised again."""
    from vllm.inputs.engine import tokens_input

    return tokens_input(list(token_ids))


def task_input(task: SampleTask) -> Any:
    """The prompt, and what there is of the answer already."""
    given = task.prefix.token_ids if task.prefix else ()
    return prompt_input((*task.prompt.token_ids, *given))


def task_parameters(task: SampleTask) -> Any:
    """vllm.SamplingParams of what is left to generate of a sample."""
    sampling, sample, given = task.sampling, task.key[2], task.num_given
    if given == 0:
        return sampling_parameters(sampling, sample)
    seed = sampling.seed
    if seed is not None:
        seed, sample = continuation_seed(seed + sample, given), 0
    left = sampling.max_new_tokens - given
    return sampling_parameters(replace(sampling, seed=seed, max_new_tokens=left), sample)


def continuation_seed(seed: int, position: int) -> int:
    """The seed with which a sample goes on at a position: the same wherever it goes on, and another
    than the sample's own, whose numbers made the tokens before.
    """
    digest = hashlib.blake2b(f"{seed}/{position}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") & LARGEST_SEED


def sampling_parameters(sampling: Sampling, sample: int) -> Any:
    """vllm.SamplingParams of one answer; sample i of a seeded request gets `seed` + i.

    Asks for the log-prob of each sampled token alone, and for one output, at the end. At
    temperature 0 the log-probs are those at temperature 1.
    """
    # vLLM checks parameters when they are made, which costs fifty times what a copy does.
    parameters = copy(_template(sampling.max_new_tokens, sampling.temperature))
    if sampling.seed is not None:
        parameters.seed = (sampling.seed + sample) & LARGEST_SEED
    return parameters


@lru_cache(maxsize=256)
def _template(max_new_tokens: int, temperature: float) -> Any:
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    return SamplingParams(
        max_tokens=max_new_tokens,
        temperature=temperature,
        logprobs=0,
        flat_logprobs=True,
        detokenize=False,  # once, at the end, instead of at every token
        output_kind=RequestOutputKind.FINAL_ONLY,
        skip_clone=True,
    )


def scoring_parameters() -> Any:
    """vllm.SamplingParams that give the log-probs of the prompt's own tokens, at temperature 1."""
    from vllm.sampling_params import SamplingParams

    return SamplingParams(
        max_tokens=1, temperature=0.0, prompt_logprobs=0, flat_logprobs=True, detokenize=False
    )


def as_rollout(
    group_id: str,
    sample: int,
    prompt: Prompt,
    output: Any,
    text: str,
    prefix: Partial | None = None,
) -> Rollout:
    """A finished vLLM request, with the text of `answer_tokens`.

    The prefix's tokens keep the log-probs and versions with which they were sampled.
    """
    completion = output.outputs[0]
    given = prefix or NOTHING
    versions = given.versions
    for span in completion.weight_versions or ():
        versions += (int(span.version),) * (span.end - span.start)
    token_ids = (*given.token_ids, *completion.token_ids)
    return Rollout(
        group_id,
        sample,
        prompt.token_ids,
        token_ids,
        (1,) * len(token_ids),
        (*given.logprobs, *completion.logprobs.logprobs),
        versions,
        text,
        "stop" if completion.finish_reason == "stop" else "length",
    )


def answer_tokens(output: Any, prefix: Partial | None = None) -> list[int]:
    """All tokens of a finished vLLM request's answer, prefix included."""
    given = prefix or NOTHING
    return [*given.token_ids, *output.outputs[0].token_ids]


def text_decoder(tokenizer: Any) -> Callable[[list[list[int]]], list[str]]:
    """A function from the token ids of several answers to their texts, end-of-turn tokens left out.

    The same texts as `tokenizer.decode` gives, which looks at each token's type first and so costs
    five times as much: where nothing is done to the text afterwards, its backend is asked directly.
    """
    from transformers import TokenizersBackend

    if (
        isinstance(tokenizer, TokenizersBackend)
        and type(tokenizer)._decode is TokenizersBackend._decode
        and not tokenizer.clean_up_tokenization_spaces
    ):
        backend = tokenizer.backend_tokenizer
        return lambda answers: backend.decode_batch(answers, skip_special_tokens=True)
    return lambda answers: [tokenizer.decode(ids, skip_special_tokens=True) for ids in answers]


def num_generated(state: Any) -> int:
    """Tokens that a running request has, from vLLM's own record of it."""
    return len(state.detokenizer.output_token_ids)


def grown(state: Any, task: SampleTask, start_version: int, known: int) -> Partial:
    """A running request's tokens from position `known` on, prefix included.

    `state` is vLLM's record of the request (RequestState). Only between two steps.
    """
    given = task.prefix or Partial((), (), (), start_version)
    new = max(0, known - task.num_given)  # of vLLM's tokens, those known
    count = num_generated(state)
    starts = state.weight_version_starts
    ends = [*(start for _, start in starts[1:]), count] if starts else []
    versions = [
        int(version)
        for (version, start), end in zip(starts, ends, strict=True)
        for _ in range(max(start, new), end)
    ]
    return Partial(
        (*given.token_ids[known:], *state.detokenizer.output_token_ids[new:]),
        (*given.logprobs[known:], *state.logprobs_processor.logprobs.logprobs[new:]),
        (*given.versions[known:], *versions),
        given.start_version,
    )


def prompt_logprobs(output: Any, num_prompt_tokens: int) -> list[float]:
    """[T] log-probs of the tokens after the first `num_prompt_tokens` of a scored sequence."""
    # One number per position, none at the first.
    return list(output.prompt_logprobs.logprobs[num_prompt_tokens - 1 :])
