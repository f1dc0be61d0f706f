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

import asyncio
import itertools
import time
from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.errors import EngineFailed, InputError, PosttrainError, Problem, WeightsDiffer
from posttrain.ports import EngineSpec
from posttrain.rollout.engine_thread import EngineThread, Request, first_line
from posttrain.rollout.environment import apply_engine_environment
from posttrain.rollout.vllm_requests import (
    as_rollout,
    prompt_input,
    prompt_logprobs,
    sampling_parameters,
    scoring_parameters,
)
from posttrain.types import Prompt, Rollout, Sampling, SyncReport, WeightVersion
from posttrain.weight_sync import model_folder
from posttrain.weight_sync.checksum import checksum
from posttrain.weight_sync.flat_file import read_weights


class VllmEngine:
    """A rollout engine (`ports.RolloutPort`). Call `start` first; methods may run concurrently.

    With `spec.gpus` above 0 it takes that many GPUs of one host, tensor-parallel, with vLLM's own
    defaults for memory and chunked prefill.
    """

    def __init__(self, spec: EngineSpec, name: str) -> None:
        self.spec = spec
        self.name = name
        self._thread = EngineThread(name)
        self._update_lock = asyncio.Lock()
        self._version = 0
        self._request_numbers = itertools.count()
        self._tokens = 0
        self._reported = {"busy_s": 0.0, "tokens": 0.0}

    async def start(self) -> None:
        """Start vLLM with the weights of `spec.model_path` as version 0. Raises EngineFailed."""
        try:
            apply_engine_environment(self.spec)
            self._config = model_folder.read_config(self.spec.model_path)
            self._shapes = model_folder.folder_shapes(self.spec.model_path)
            await self._thread.start(self._build)
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

    async def update_weights(self, version: WeightVersion) -> SyncReport:
        """Take published weights; running answers go on under them.

        Raises WeightsDiffer, with the old weights still in use, where the file is damaged, its
        checksum is not the published one or its tensors are not the model's; and, with the engine
        dead, where a layer computes with other weights afterwards.
        """
        begin = time.perf_counter()
        async with self._update_lock:
            await asyncio.to_thread(self._verify, version)
            stall_ms = await self._swap(version.location, version.version)
        return SyncReport(version.version, True, 1000 * (time.perf_counter() - begin), stall_ms)

    async def load_model_folder(self, path: str, version: int = 0) -> None:
        """Take the weights of another model folder of the same architecture, as `version`.

        Raises InputError where the architecture differs, else as `update_weights`.
        """
        async with self._update_lock:
            model_folder.require_same_architecture(self.spec.model_path, path)
            self._require_tensors(model_folder.folder_shapes(path), path)
            await self._swap(path, version)

    async def stats(self) -> Mapping[str, float]:
        """`busy_s` and `tokens` since the last call; `running` and `waiting` sequences now."""
        now = {"busy_s": self._thread.busy_s, "tokens": float(self._tokens)}
        change = {key: value - self._reported[key] for key, value in now.items()}
        self._reported = now
        engine = self._thread.engine
        if engine is None:
            return change | {"running": 0.0, "waiting": 0.0}
        running, waiting = engine.engine_core.engine_core.scheduler.get_request_counts()
        return change | {"running": float(running), "waiting": float(waiting)}

    async def shutdown(self) -> None:
        """End the engine and its thread; answers under way raise EngineFailed. Twice is fine."""
        await self._thread.stop(lambda engine: engine.engine_core.shutdown())

    def _build(self) -> Any:
        from posttrain.rollout.vllm_build import build_engine

        engine = build_engine(self.spec)
        engine.set_weight_version("0")
        self._tokenizer = engine.get_tokenizer()
        engine.collective_rpc("posttrain_watch", args=(self.spec.model_path,))
        return engine

    def _verify(self, version: WeightVersion) -> None:
        try:
            received = read_weights(version.location)
        except OSError as error:
            raise WeightsDiffer(
                f"engine {self.name} cannot read version {version.version}: {error.strerror}",
                place=version.location,
                help="weights travel through shared memory: engine and trainer share one host",
            ) from error
        self._require_tensors(
            {name: tuple(tensor.shape) for name, tensor in received.items()}, version.location
        )
        digest = checksum(received)
        if digest != version.checksum:
            raise WeightsDiffer(
                f"engine {self.name} received checksum {digest[:8]} for version "
                f"{version.version}, the trainer published {version.checksum[:8]}",
                place=version.location,
                help="publish the version again; the engine goes on with the weights it had",
            )

    def _require_tensors(self, shapes: Mapping[str, tuple[int, ...]], place: str) -> None:
        tied = bool(self._config.get("tie_word_embeddings", False))
        model_folder.require_same_tensors(self._shapes, shapes, tied, place)

    async def _swap(self, location: str, version: int) -> float:
        """Put other weights in between two steps; for how long no step could run, in ms."""

        def swap(engine: Any) -> float:
            begin = time.perf_counter()
            try:
                # Cached keys and values belong to the old weights: running answers start over.
                engine.reset_prefix_cache(reset_running_requests=True)
                workers = engine.collective_rpc("posttrain_swap", args=(location,))
                self._require_fresh({layer for layers in workers for layer in layers}, location)
            except Exception as error:  # half-swapped: nothing may be generated from here on
                self._thread.fail(self._broken(error))
                raise
            engine.set_weight_version(str(version))
            self._version = version
            return 1000 * (time.perf_counter() - begin)

        try:
            return await self._thread.call(swap)
        except PosttrainError:
            raise
        except Exception as error:  # vLLM's own, of any class
            raise self._broken(error) from error

    def _require_fresh(self, stale: set[str], location: str) -> None:
        if stale:
            raise WeightsDiffer(
                f"engine {self.name} took the weights, but {len(stale)} of its layers compute with "
                f"others, first {min(stale)}",
                place=location,
                help="the engine is not used any more; start another one",
            )

    def _broken(self, error: BaseException) -> EngineFailed:
        return EngineFailed(
            f"engine {self.name} died in a weight update: {first_line(error)}",
            help="its unfinished rollouts are generated again elsewhere",
        )

    async def _complete(self, wanted: Sequence[tuple[Prompt, Any]]) -> tuple[int, list[Any]]:
        """(version at the start, outputs in order) of prompts with their sampling parameters."""
        from vllm.exceptions import VLLMClientError

        requests = [
            Request(str(next(self._request_numbers)), prompt_input(prompt), parameters)
            for prompt, parameters in wanted
        ]
        try:
            return await self._thread.complete(requests, lambda: self._version)
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
        rollout = as_rollout(group_id, sample, prompt, output, self._tokenizer)
        self._tokens += len(rollout.token_ids)
        return rollout
