"""One vLLM engine in this process: answers with behaviour log-probs, weight swaps in flight.

The engine core runs in a thread of ours (`engine_thread`) and not behind vLLM's AsyncLLM, which
would put it into a second process: one process starts three times as fast, is 25 % faster on one
core, leaves nothing behind when it is killed, and lets a weight update be one function between
two steps.

Running answers survive an update: they go back to the queue, their cached keys and values are
dropped and computed again under the new weights, and they continue. Each token carries the
version that produced it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from posttrain.errors import (
    EngineFailed,
    InputError,
    Problem,
)
from posttrain.ports import EngineSpec
from posttrain.rollout.engine_thread import EngineThread, first_line
from posttrain.rollout.environment import apply_engine_environment
from posttrain.rollout.receivers import Request
from posttrain.rollout.samples import Answer, Growth, SampleKey, SampleTask
from posttrain.rollout.vllm_requests import (
    answer_tokens,
    as_rollout,
    num_generated,
    prompt_input,
    prompt_logprobs,
    sampling_parameters,
    scoring_parameters,
    text_decoder,
)
from posttrain.rollout.vllm_samples import VllmSamples
from posttrain.rollout.vllm_update import WeightUpdates
from posttrain.types import Prompt, Rollout, Sampling, SyncReport, WeightVersion

COUNT_EVERY_S = 0.1  # the tokens of running answers, for the statistics


class VllmEngine:
    """A rollout engine (`samples.SampleEngine`). Call `start` first; methods may run concurrently.
    Prompts are asked whole (`generate`, `generate_many`) or sample by sample
    (`submit`, `finished`).

    With `spec.gpus` above 0 it takes that many GPUs of one host, tensor-parallel, with vLLM's own
    defaults for memory and chunked prefill.
    """

    def __init__(self, spec: EngineSpec, name: str, cores: Collection[int] = ()) -> None:
        """`cores` are those that it computes on; any where there are none."""
        self.spec = spec
        self.name = name
        self._thread = EngineThread(name, cores)
        self._weights = WeightUpdates(spec, name, self._thread)
        self._request_numbers = itertools.count()
        self._tokens = 0
        self._reported: dict[str, float] = {}
        self._counted_at = float("-inf")

    async def start(self) -> None:
        """Start vLLM with the weights of `spec.model_path` as version 0. Raises EngineFailed."""
        try:
            apply_engine_environment(self.spec)
            self._weights.read_model()
            await self._thread.start(self._build)
            self._samples = VllmSamples(
                self._thread, lambda: self._weights.version, self._request_numbers, self._decode
            )
        except Exception as error:  # whatever vLLM raises: this is where it gets our name
            await self._thread.stop(lambda engine: None)
            raise EngineFailed(
                f"engine {self.name} did not start: {first_line(error)}",
                place=self.spec.model_path,
                help="look at the engine's log; it needs memory for the model and "
                f"{self.spec.kv_cache_mb} MB of cache",
            ) from error

    async def generate(
        self, group_id: str, prompt: Prompt, num_samples: int, sampling: Sampling
    ) -> tuple[int, list[Rollout]]:
        """(version at the start, `num_samples` answers). Sample i is seeded with `seed` + i.

        Raises InputError where prompt and answer exceed the context, EngineFailed where the engine
        is dead.
        """
        self._require_room(prompt, sampling.max_new_tokens)
        wanted = [(prompt, sampling_parameters(sampling, i)) for i in range(num_samples)]
        version, outputs = await self._complete(wanted)
        return version, [
            self._rollout(group_id, sample, prompt, output) for sample, output in enumerate(outputs)
        ]

    async def generate_many(self, prompts: list[Prompt], sampling: Sampling) -> list[Rollout]:
        """One answer per prompt, in order; answer i is seeded with `seed` + i. See `generate`."""
        for prompt in prompts:
            self._require_room(prompt, sampling.max_new_tokens)
        wanted = [(prompt, sampling_parameters(sampling, i)) for i, prompt in enumerate(prompts)]
        _, outputs = await self._complete(wanted)
        return [
            self._rollout(prompt.id, 0, prompt, output)
            for prompt, output in zip(prompts, outputs, strict=True)
        ]

    async def token_logprobs(
        self, sequences: list[tuple[Sequence[int], Sequence[int]]]
    ) -> list[list[float]]:
        """Log-probs, in nats at temperature 1, of given tokens after given prompts.

        Each pair is (prompt ids [P], token ids [T]) and gives [T] numbers. P + T must be below the
        context length. An empty prompt gives its first token no log-prob: raise InputError.
        """
        wanted = []
        for number, (prompt_ids, token_ids) in enumerate(sequences):
            whole = Prompt(f"sequence {number}", "", (*prompt_ids, *token_ids), "", {})
            self._require_room(whole, 1)
            if not prompt_ids:
                raise InputError(Problem("empty-prompt", "the first token has no log-prob"))
            wanted.append((whole, scoring_parameters()))
        _, outputs = await self._complete(wanted)
        return [
            prompt_logprobs(output, len(prompt_ids))
            for (prompt_ids, _), output in zip(sequences, outputs, strict=True)
        ]

    def submit(self, tasks: Sequence[SampleTask]) -> None:
        """Begin these samples; see `samples.SampleEngine`. Sample i is seeded with `seed` + i; one
        that goes on from a prefix gets a seed of its own for the rest.

        Raises EngineFailed where the engine is dead.
        """

        def check(task: SampleTask) -> None:
            self._require_room(task.prompt, task.sampling.max_new_tokens)

        self._samples.submit(tasks, check)

    async def finished(self) -> list[Answer]:
        """Samples that have ended since the last call; waits for the first one."""
        answers = await self._samples.finished()
        for answer in answers:
            if answer.rollout is not None:
                self._tokens += len(answer.rollout.token_ids) - answer.task.num_given
        return answers

    async def growth(self, known: Mapping[SampleKey, int], at_least: int) -> list[Growth]:
        """What every running sample has beyond the tokens known of it, if `at_least` as many."""
        return await self._samples.growth(known, at_least)

    async def abort(self, keys: Collection[SampleKey]) -> None:
        """Stop generating these samples; they are not answered any more."""
        await self._samples.abort(keys)

    async def update_weights(self, version: WeightVersion) -> SyncReport:
        """Take published weights; running answers go on under them.

        Raises, with the old weights still in use, WeightsGone where the version is not there any
        more, DeadlineExceeded where it does not come in time, and WeightsDiffer where it is damaged
        or is not the version, checksum or model that was published. Where weights are loaded in
        place and a layer computes with others afterwards, WeightsDiffer leaves the engine dead.
        """
        return await self._weights.take(version)

    async def load_model_folder(self, path: str, version: int = 0) -> None:
        """Take the weights of another model folder of the same architecture, as `version`.

        Raises InputError where the architecture differs, else as `update_weights`.
        """
        await self._weights.take_folder(path, version)

    async def stats(self) -> Mapping[str, float]:
        """`busy_s`, `tokens` and `cache_hit_share` since the last call (tokens of finished and
        running answers, some of them told a little later); `running` and `waiting` sequences now.
        """
        engine = self._thread.engine
        running = waiting = 0
        if engine is not None:
            running, waiting = engine.engine_core.engine_core.scheduler.get_request_counts()
        now = {
            "busy_s": self._thread.busy_s,
            "tokens": self._count_tokens(engine, running + waiting),
            "prompt_tokens": float(self._samples.prompt_tokens),
            "cached_tokens": float(self._samples.cached_tokens),
        }
        change = {key: value - self._reported.get(key, 0.0) for key, value in now.items()}
        self._reported = now
        return {
            "busy_s": change["busy_s"],
            "tokens": max(0.0, change["tokens"]),  # aborted answers take theirs along
            "running": float(running),
            "waiting": float(waiting),
            "cache_hit_share": change["cached_tokens"] / max(1.0, change["prompt_tokens"]),
        }

    def _count_tokens(self, engine: Any, num_unfinished: int) -> float:
        """Tokens of finished and running answers since the start. Each running one is looked at, so
        that the number is made anew only now and then, and where nothing runs.
        """
        now = time.monotonic()
        if num_unfinished > 0 and now - self._counted_at < COUNT_EVERY_S:
            return self._reported.get("tokens", 0.0)
        self._counted_at = now
        states = list(engine.output_processor.request_states.values()) if engine else []  # atomic
        return float(self._tokens + sum(num_generated(state) for state in states))

    async def shutdown(self) -> None:
        """End the engine and its thread; answers under way raise EngineFailed. Twice is fine."""
        await self._thread.stop(lambda engine: engine.engine_core.shutdown())

    def _build(self) -> Any:
        from posttrain.rollout.vllm_build import build_engine

        engine = build_engine(self.spec)
        self._decode = text_decoder(engine.get_tokenizer())
        self._weights.begin(engine)
        return engine

    async def _complete(self, wanted: Sequence[tuple[Prompt, Any]]) -> tuple[int, list[Any]]:
        """(version at the start, outputs in order) of prompts with their sampling parameters."""
        from vllm.exceptions import VLLMClientError

        requests = [
            Request(str(next(self._request_numbers)), prompt_input(prompt.token_ids), parameters)
            for prompt, parameters in wanted
        ]
        try:
            return await self._thread.complete(requests, lambda: self._weights.version)
        except VLLMClientError as error:
            raise InputError(
                Problem("bad-request", f"vLLM refused: {first_line(error)}")
            ) from error

    def _require_room(self, prompt: Prompt, max_new_tokens: int) -> None:
        length, room = len(prompt.token_ids), self.spec.max_model_len
        if length == 0:
            raise InputError(Problem("empty-prompt", "the prompt has no token", path=prompt.id))
        if length + max_new_tokens > room:
            raise InputError(
                Problem(
                    "prompt-too-long",
                    f"{length} tokens, context is {room} with {max_new_tokens} kept for the answer",
                    path=prompt.id,
                    help="`data.too_long: drop` leaves such rows out and counts them",
                )
            )

    def _rollout(self, group_id: str, sample: int, prompt: Prompt, output: Any) -> Rollout:
        (text,) = self._decode([answer_tokens(output)])
        rollout = as_rollout(group_id, sample, prompt, output, text)
        self._tokens += len(rollout.token_ids)
        return rollout
