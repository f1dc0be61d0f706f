"""What the worker around an engine costs: tokens per second with the whole path and without it.

Ways to generate the same samples with the same seeds, in one process on one core, one after the
other and again, so that each ratio compares runs that stand beside one another:

- worker: RolloutWorker with a coordinator in the same process, single samples, journal on
- engine: the bare LLMEngine that the worker drives, asked for final outputs with log-probs
- offline: vLLM's own LLM.generate on an engine of its own with the same settings
- unlooked: the worker without looking how far samples are (no half-done ones in the journal)
- unwritten: the worker that encodes its records and writes none of them

Goals stand on CPU time: the process has one core, and what else the machine does is not ours.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, at_least, shown
from benchmarks.workload import (
    PROMPT_TOKENS,
    SIGMA,
    Workload,
    build_model,
    plan_lengths,
)
from posttrain.ports import EngineSpec
from posttrain.rollout.environment import apply_engine_environment
from posttrain.types import Directive, EngineReport, Prompt, Sampling, Work

RUNNING = 128
ROUNDS = 7
WAYS = ("worker", "engine", "offline")
MORE_WAYS = ("unlooked", "unwritten")
LOADS = {  # label -> what is generated; the second and the third are shown beside the first
    "heavy tails": (Workload("micro", 48, 8, 1, 32, SIGMA), WAYS + MORE_WAYS),
    "24 tokens each": (Workload("micro", 64, 8, 1, 24, 0.0), WAYS),
    "heavy tails, larger model": (Workload("medium", 24, 8, 1, 32, SIGMA), WAYS),
}


def run() -> tuple[list[Figure], dict[str, Any]]:
    figures = []
    for label, (_, ways) in LOADS.items():
        words = [sys.executable, "-m", __name__, label]
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
        speeds = json.loads(done.stdout.splitlines()[-1])
        figures += figures_of(label, speeds, ways)
    return figures, {
        "rounds": ROUNDS,
        "running": RUNNING,
        "sigma": SIGMA,
        "engine": "fp32, one thread, one core; vLLM in this process",
    }


def figures_of(label: str, speeds: dict[str, list[float]], ways: tuple[str, ...]) -> list[Figure]:
    """The goal's figure first, then what it is made of."""
    figures = [
        at_least(f"{label}: worker / engine", ratios(speeds, "cpu worker", "cpu engine"), 0.95, ""),
        shown(f"{label}: worker / engine, by the clock", ratios(speeds, "worker", "engine"), ""),
        shown(f"{label}: engine / vLLM offline", ratios(speeds, "cpu engine", "cpu offline"), ""),
    ]
    if "unlooked" in ways:
        looked = ratios(speeds, "cpu worker", "cpu unlooked")
        written = ratios(speeds, "cpu worker", "cpu unwritten")
        figures += [
            shown(f"{label}: looking at lengths costs", [1 - each for each in looked], ""),
            shown(f"{label}: the journal costs", [1 - each for each in written], ""),
        ]
    return figures + [shown(f"{label}: {way}", speeds[way], "tokens/s") for way in WAYS]


def ratios(speeds: dict[str, list[float]], way: str, other: str) -> list[float]:
    """One per round: a pair that ran beside one another."""
    return [a / b for a, b in zip(speeds[way], speeds[other], strict=True)]


class Desk:
    """A coordinator that hands out work as places get free, and knows when all is finished."""

    def __init__(self, works: list[Work]) -> None:
        self._works = works[::-1]
        self._left = sum(len(work.samples) for work in works)
        self._room = (
            RUNNING  # as the coordinator of a run: no more than the engine decodes together
        )
        self.num_tokens = 0
        self._calls = 0
        self._newer = asyncio.Event()

    async def exchange(self, report: EngineReport) -> Directive:
        for sample in report.finished:
            self.num_tokens += sample.num_tokens
        self._left -= len(report.finished)
        self._room += len(report.finished)
        self._calls += 1
        call = self._calls
        self._newer.set()
        work = []
        while self._works and self._room >= len(self._works[-1].samples):
            work.append(self._works.pop())
            self._room -= len(work[-1].samples)
        while not work and self._left > 0 and self._calls == call:
            self._newer.clear()
            await self._newer.wait()
        return Directive(number=call, work=tuple(work), end=self._left == 0)


class Bench:
    """One engine of ours and one of vLLM's own, and the samples that all are asked for."""

    def __init__(self, folder: str, workload: Workload) -> None:
        self.folder = folder
        context = workload.context_tokens
        self.spec = EngineSpec(folder, context, "fp32", 256, True, 32, RUNNING)
        apply_engine_environment(self.spec)
        from posttrain.rollout.vllm_engine import VllmEngine

        self.engine = VllmEngine(self.spec, "0")
        samples = tuple(range(workload.samples_per_prompt))
        self.works = [
            Work(
                "train",
                draw,
                samples,
                Prompt(str(draw), "", tuple(range(start, start + PROMPT_TOKENS)), "", {}),
                Sampling(workload.longest_tokens, 1.0, seed=1000 * draw),
            )
            for draw, start in enumerate(2 + i % 50 for i in range(workload.groups_per_step))
        ]
        self.lengths = {
            1000 * work.draw + sample: workload.length(work.draw, sample)
            for work in self.works
            for sample in samples
        }

    async def start(self) -> None:
        from vllm import LLM

        from posttrain.rollout.vllm_build import engine_arguments

        await self.engine.start()
        arguments = vars(engine_arguments(self.spec))
        kept = {
            key: arguments[key]
            for key in (
                "model", "dtype", "max_model_len", "max_num_seqs", "enforce_eager",
                "logprobs_mode", "async_scheduling", "disable_log_stats", "seed",
                "kv_cache_memory_bytes", "block_size", "enable_chunked_prefill",
                "max_num_batched_tokens",
            )
        }  # fmt: skip
        self.offline_engine = LLM(**kept)
        plan_lengths(self.offline_engine.llm_engine, self.lengths)
        await self.engine._thread.call(lambda engine: plan_lengths(engine, self.lengths))

    async def go(self, way: str) -> int:
        """Generate everything once; the number of tokens."""
        if way == "engine":  # in the engine's own thread, as fast as it goes
            return await self.engine._thread.call(self._bare)
        if way == "offline":
            return await asyncio.to_thread(self._offline)
        return await self._worker(way)

    async def _worker(self, way: str) -> int:
        from posttrain.rollout.journal import JournalWriter
        from posttrain.rollout.worker import RolloutWorker, WorkerSettings

        desk = Desk(self.works)
        process = uuid.uuid4().hex[:8]
        journal = JournalWriter(Path(self.folder) / "journal", "0", process)
        if way == "unwritten":
            os.close(journal._descriptor)
            journal._descriptor = os.open(os.devnull, os.O_WRONLY)
        settings = WorkerSettings(journal_check_s=1e9) if way == "unlooked" else WorkerSettings()
        worker = RolloutWorker(
            self.engine,
            desk,
            journal,
            name="0",
            process=process,
            capacity=RUNNING,
            settings=settings,
        )
        await worker.serve()
        return desk.num_tokens

    def _bare(self, engine: Any) -> int:
        for number, (prompt, parameters) in enumerate(self._requests()):
            engine.add_request(f"{number}", prompt, parameters)
        num_tokens = 0
        while engine.has_unfinished_requests():
            num_tokens += sum(len(output.outputs[0].token_ids) for output in engine.step())
        return num_tokens

    def _offline(self) -> int:
        prompts, parameters = zip(*self._requests(), strict=True)
        outputs = self.offline_engine.generate(list(prompts), list(parameters), use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    def _requests(self) -> list[tuple[Any, Any]]:
        from posttrain.rollout.vllm_requests import prompt_input, sampling_parameters

        return [
            (prompt_input(work.prompt.token_ids), sampling_parameters(work.sampling, sample))
            for work in self.works
            for sample in work.samples
        ]


async def measure(
    folder: str, workload: Workload, ways: tuple[str, ...], rounds: int = ROUNDS
) -> dict[str, list[float]]:
    """Tokens per second of each way, round by round; the order turns from round to round.
    `cpu WAY`: per second of CPU time.
    """
    bench = Bench(folder, workload)
    build_model(folder, workload)
    await bench.start()
    speeds: dict[str, list[float]] = {p + way: [] for p in ("", "cpu ") for way in ways}
    for number in range(rounds + 1):
        first = number % len(ways)
        for way in ways[first:] + ways[:first]:
            begin, cpu_begin = time.perf_counter(), time.process_time()
            num_tokens = await bench.go(way)
            elapsed_s, cpu_s = time.perf_counter() - begin, time.process_time() - cpu_begin
            if num_tokens != sum(bench.lengths.values()):
                raise AssertionError(f"{way} generated {num_tokens} tokens")
            if number > 0:  # the first round warms up
                speeds[way].append(num_tokens / elapsed_s)
                speeds["cpu " + way].append(num_tokens / cpu_s)
    await bench.engine.shutdown()
    return speeds


def main(label: str) -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(asyncio.run(measure(folder, *LOADS[label]))))


if __name__ == "__main__":
    main(sys.argv[1])
