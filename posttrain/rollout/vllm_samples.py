"""Samples that an engine generates one by one: handed in, watched while they grow, collected.

Watching costs nothing while nobody looks: tokens, log-probs and versions are read between two steps
from vLLM's own record of a running request, because streamed outputs would cost a fifth of the
throughput.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from posttrain.errors import EngineFailed, InputError
from posttrain.rollout.engine_thread import EngineThread, first_line
from posttrain.rollout.receivers import Collector, Outcome, Request
from posttrain.rollout.samples import Answer, Growth, SampleKey, SampleTask
from posttrain.rollout.vllm_requests import (
    answer_tokens,
    as_rollout,
    grown,
    num_generated,
    task_input,
    task_parameters,
)


class VllmSamples:
    """The single samples of one engine. Belongs to the event loop that makes it."""

    def __init__(
        self,
        thread: EngineThread,
        version: Callable[[], int],
        ids: Iterator[int],
        decode: Callable[[list[list[int]]], list[str]],
    ) -> None:
        self._thread = thread
        self._version = version
        self._ids = ids
        self._decode = decode  # token ids of several answers -> their texts
        self._collector = Collector()
        self._tasks: dict[str, tuple[SampleTask, int]] = {}  # by request: with its start version
        self._requests: dict[SampleKey, str] = {}
        self.prompt_tokens = 0  # of answered samples
        self.cached_tokens = 0  # of them found in the cache

    def submit(self, tasks: Sequence[SampleTask], check: Callable[[SampleTask], None]) -> None:
        """Begin samples; one for which `check` raises InputError is answered with its message."""
        requests = []
        for task in tasks:
            request_id = str(next(self._ids))
            try:
                check(task)
            except InputError as error:
                self._tasks[request_id] = (task, self._version())
                self._collector.begin(request_id, None)
                self._collector.take(request_id, None, error)
                self._collector.wake()
                continue
            self._requests[task.key] = request_id
            requests.append((Request(request_id, task_input(task), task_parameters(task)), task))

        def note_start() -> None:  # in the engine's thread, when they go in
            version = self._version()
            for request, task in requests:
                self._tasks[request.id] = (task, version)

        self._thread.submit([request for request, _ in requests], note_start, self._collector)

    async def finished(self) -> list[Answer]:
        """What has ended; may be nothing, where all of it was aborted meanwhile."""
        arrived = await self._collector.outcomes()
        outcomes = [each for each in arrived if each.request_id in self._tasks]
        ended = [(each, *self._forget(each)) for each in outcomes]
        whole = [(task, each.output) for each, task, _ in ended if each.refusal is None]
        texts = iter(self._decode([answer_tokens(output, task.prefix) for task, output in whole]))
        return [
            self._answer(each.output, task, start, next(texts))
            if each.refusal is None
            else Answer(task, start, None, first_line(each.refusal))
            for each, task, start in ended
        ]

    async def growth(self, known: Mapping[SampleKey, int], at_least: int) -> list[Growth]:
        def read(engine: Any) -> list[Growth]:
            found = []
            for state in engine.output_processor.request_states.values():
                task, start = self._tasks.get(state.external_req_id, (None, 0))
                if task is None:  # not one of these samples
                    continue
                have = known.get(task.key, 0)
                if task.num_given + num_generated(state) - have >= at_least:
                    found.append(Growth(task, have, grown(state, task, start, have)))
            return found

        return await self._thread.call(read)

    async def abort(self, keys: Collection[SampleKey]) -> None:
        ids = [self._requests.pop(key) for key in keys if key in self._requests]
        if not ids:
            return
        try:
            await self._thread.abort(ids)
        except EngineFailed:
            return  # dead: it generates nothing any more
        for request_id in ids:
            self._tasks.pop(request_id, None)

    def _forget(self, outcome: Outcome) -> tuple[SampleTask, int]:
        task, start = self._tasks.pop(outcome.request_id)
        if self._requests.get(task.key) == outcome.request_id:
            del self._requests[task.key]
        return task, start

    def _answer(self, output: Any, task: SampleTask, start: int, text: str) -> Answer:
        self.prompt_tokens += len(output.prompt_token_ids)
        self.cached_tokens += output.num_cached_tokens or 0
        if task.prefix is not None:
            start = task.prefix.start_version
        _, draw, sample = task.key
        rollout = as_rollout(str(draw), sample, task.prompt, output, text, task.prefix)
        return Answer(task, start, rollout)
