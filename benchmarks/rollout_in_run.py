"""Tokens per second of an engine inside a whole run, against the same engine driven bare.

Inside: `posttrain run` with all it does beside generating: journal, weight updates after which
every running answer is computed anew, a trainer on the other core. Answers are equally long and
engines are the slow side, so the samples that a step trains, times their length, are the tokens
that were generated meanwhile.

Bare: vLLM's own LLMEngine with the run's settings, asked for final outputs with log-probs and kept
full, beside a process that does the trainer's arithmetic on batches of the same size, one after
another. It is never given other weights.

The two run in turns; a ratio is of two that followed one another.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, at_least, shown
from benchmarks.product import ProductSettings, mean_of, run_product, step_seconds
from benchmarks.workload import Workload, build_model

WORKLOAD = Workload("micro", 64, 8, num_steps=12, median_tokens=64, sigma=0.0)
SETTINGS = ProductSettings(max_running=64, staleness={"max": 4, "ahead": 2})
REPEATS = 3
WARM_UP = 3  # steps that are not counted
BARE_ANSWERS = 1536
KV_CACHE_MB, BLOCK = 512, 32


def run() -> tuple[list[Figure], dict[str, Any]]:
    pairs = [(inside(SETTINGS), bare()) for _ in range(REPEATS)]
    ratios = [run["tokens_per_s"] / alone for run, alone in pairs]
    return [
        at_least("inside a run / bare", ratios, 0.95, ""),
        shown("inside a run", [run["tokens_per_s"] for run, _ in pairs], "tokens/s"),
        shown("bare", [alone for _, alone in pairs], "tokens/s"),
        shown("inside: engine busy", [run["busy"] for run, _ in pairs], "share"),
        shown("inside: trainer busy", [run["trainer_busy"] for run, _ in pairs], "share"),
        shown("inside: step", [run["step_s"] for run, _ in pairs], "s"),
    ], {
        "workload": asdict(WORKLOAD),
        "run": asdict(SETTINGS),
        "bare_answers": BARE_ANSWERS,
        "beside bare": "forward and backward of a trainer's batches, one thread",
    }


def inside(settings: ProductSettings) -> dict[str, float]:
    """Of the steps in the middle: while engines are full and more work is to come."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        rows = run_product(Path(folder) / "own", WORKLOAD, settings)
    last = -1 - settings.staleness["ahead"]
    step_s = statistics.fmean(step_seconds(rows)[WARM_UP:last])
    measured = rows[WARM_UP + 1 : last]
    return {
        "tokens_per_s": WORKLOAD.samples_per_step * WORKLOAD.median_tokens / step_s,
        "step_s": step_s,
        "busy": mean_of(measured, "engine/busy_share"),
        "trainer_busy": mean_of(measured, "trainer/busy_share"),
    }


def bare() -> float:
    """Tokens per second of the engine alone, with the trainer's load beside it."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        build_model(folder, WORKLOAD)
        with _beside("load", folder):
            done = subprocess.run(
                [sys.executable, "-m", __name__, "engine", folder],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
    return float(json.loads(done.stdout.splitlines()[-1]))


@contextmanager
def _beside(what: str, folder: str) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-m", __name__, what, folder])
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def engine(folder: str) -> float:
    """Keep the engine full until all answers are there; the first wave warms up."""
    from posttrain.ports import EngineSpec
    from posttrain.rollout.environment import apply_engine_environment

    spec = EngineSpec(
        folder, WORKLOAD.context_tokens, "fp32", KV_CACHE_MB, True, BLOCK, SETTINGS.max_running
    )
    apply_engine_environment(spec)
    from vllm import LLMEngine

    from posttrain.rollout.vllm_build import engine_arguments

    llm = LLMEngine.from_engine_args(engine_arguments(spec))
    _generate(llm, SETTINGS.max_running, 0)
    began = time.perf_counter()
    return _generate(llm, BARE_ANSWERS, SETTINGS.max_running) / (time.perf_counter() - began)


def _generate(llm: Any, count: int, first: int) -> int:
    from posttrain.rollout.vllm_requests import prompt_input, sampling_parameters
    from posttrain.types import Sampling

    tokens = 0
    for number in range(first, first + count):
        ids = tuple(3 + (number * 7 + place) % 60 for place in range(12))
        parameters = sampling_parameters(Sampling(WORKLOAD.median_tokens, 1.0, seed=number), 0)
        parameters.ignore_eos = True
        llm.add_request(str(number), prompt_input(ids), parameters)
    while llm.has_unfinished_requests():
        tokens += sum(len(output.outputs[0].token_ids) for output in llm.step())
    return tokens


def load(folder: str) -> None:
    """A trainer's arithmetic, until it is ended."""
    import torch

    from benchmarks.trainer import BareLoop, make_batch
    from posttrain.train.rl_batch import flatten

    torch.set_num_threads(1)
    loop = BareLoop(folder)
    pieces = loop.pack(flatten(make_batch(WORKLOAD, 0)))
    while True:
        loop.step(pieces)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if sys.argv[1] == "engine":
        print(json.dumps(engine(sys.argv[2])))
    else:
        load(sys.argv[2])
