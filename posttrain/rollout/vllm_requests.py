"""Our records as vLLM's requests, and vLLM's answers as our records."""

from __future__ import annotations

from typing import Any

from posttrain.types import Prompt, Rollout, Sampling

LARGEST_SEED = 2**63 - 1


def prompt_input(prompt: Prompt) -> Any:
    """Token ids as they are: nothing is tokenised again."""
    from vllm.inputs.engine import tokens_input

    return tokens_input(list(prompt.token_ids))


def sampling_parameters(sampling: Sampling, sample: int) -> Any:
    """vllm.SamplingParams of one answer; sample i of a seeded request gets `seed` + i.

    Asks for the log-prob of each sampled token alone, and for one output, at the end. At
    temperature 0 the log-probs are those at temperature 1.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        max_tokens=sampling.max_new_tokens,
        temperature=sampling.temperature,
        seed=None if sampling.seed is None else (sampling.seed + sample) & LARGEST_SEED,
        logprobs=0,
        flat_logprobs=True,
        detokenize=False,  # once, at the end, instead of at every token
        output_kind=RequestOutputKind.FINAL_ONLY,
        skip_clone=True,
    )


def scoring_parameters() -> Any:
    """vllm.SamplingParams that give the log-probs of the prompt's own tokens, at temperature 1."""
    from vllm import SamplingParams

    return SamplingParams(
        max_tokens=1, temperature=0.0, prompt_logprobs=0, flat_logprobs=True, detokenize=False
    )


def as_rollout(group_id: str, sample: int, prompt: Prompt, output: Any, tokenizer: Any) -> Rollout:
    """A finished vLLM request. The end-of-turn token stays in the tokens, not in the text."""
    completion = output.outputs[0]
    token_ids = tuple(completion.token_ids)
    spans = completion.weight_versions or ()
    return Rollout(
        group_id,
        sample,
        prompt.token_ids,
        token_ids,
        (1,) * len(token_ids),
        tuple(completion.logprobs.logprobs),
        tuple(int(span.version) for span in spans for _ in range(span.start, span.end)),
        tokenizer.decode(token_ids, skip_special_tokens=True),
        "stop" if completion.finish_reason == "stop" else "length",
    )


def prompt_logprobs(output: Any, num_prompt_tokens: int) -> list[float]:
    """[T] log-probs of the tokens after the first `num_prompt_tokens` of a scored sequence."""
    # One number per position, none at the first.
    return list(output.prompt_logprobs.logprobs[num_prompt_tokens - 1 :])
