"""Asynchronous against synchronous where devices are the bound: real processes, stated latencies.

Eleven devices. The synchronous mode uses all of them twice: all generate a batch, then all train
it; changing between the two costs it nothing. The asynchronous mode has 8 engines and 3 trainers.
Coordinator, workers, messages and journals are the product's, in Ray processes; engines and
trainers sleep (`benchmarks.sleeping`). Lengths are heavy-tailed and the same for all modes.

x is training's share of the synchronous step. No schedule can be faster than f/x times the
synchronous one, f being the trainers' share of the devices: here .27/x.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks.figures import Figure, at_least, shown
from benchmarks.workload import LONGEST_MEDIANS, SIGMA, Workload
from posttrain.loop.admission import AdmissionRule
from posttrain.loop.latency import (
    ONE_STEP_OVERLAP,
    SYNCHRONOUS,
    AnswerLengths,
    EngineSpeed,
    Schedule,
    System,
    TrainerSpeed,
)

NUM_ENGINES, NUM_TRAINERS = 8, 3
NUM_DEVICES = NUM_ENGINES + NUM_TRAINERS
SAMPLES_PER_ENGINE, SAMPLES_PER_PROMPT = 64, 8
MEDIAN_TOKENS = 64
ASYNCHRONOUS = Schedule(steps_ahead=2, max_staleness=4)
SHARES = (0.1, 0.05, 0.2, 0.3)  # x; the first is the claim's
REPEATS = 3  # of the claim, each with other lengths; the others once
# One decode step of a full engine takes 6.6 ms: fast enough to be measured in minutes, and still a
# hundred times what the processes around it cost.
SPEED = EngineSpeed(base_s=0.004, per_sequence_s=0.00004, max_running=SAMPLES_PER_ENGINE)
GROUPS = NUM_ENGINES * SAMPLES_PER_ENGINE // SAMPLES_PER_PROMPT


@dataclass(frozen=True, slots=True)
class Mode:
    """How the eleven devices are used, and how many steps are measured."""

    name: str
    schedule: Schedule
    colocated: bool
    warm_up_steps: int
    steps: int


MODES = (
    Mode("synchronous", SYNCHRONOUS, True, 1, 14),
    Mode("one-step overlap", ONE_STEP_OVERLAP, False, 2, 10),
    Mode("asynchronous", ASYNCHRONOUS, False, 12, 16),
)


def run() -> tuple[list[Figure], dict[str, Any]]:
    figures: list[Figure] = []
    for x in SHARES:
        is_claim = x == SHARES[0]
        seeds = range(REPEATS if is_claim else 1)
        measured = [measure(x, seed) for seed in seeds]
        planned = [plan(x, seed) for seed in seeds]
        for mode in MODES[1:]:
            name = f"x {x:g}, {mode.name} / synchronous"
            ratios = [row["synchronous"]["step_s"] / row[mode.name]["step_s"] for row in measured]
            if is_claim and mode.schedule == ASYNCHRONOUS:
                figures.append(at_least(name, ratios, 2.4, "x"))
            else:
                figures.append(shown(name, ratios, "x"))
            ratios = [row["synchronous"] / row[mode.name] for row in planned]
            figures.append(shown(f"{name}, on the virtual clock", ratios, "x"))
        figures.append(shown(f"x {x:g}, the limit f/x", [NUM_TRAINERS / NUM_DEVICES / x], "x"))
        shares = [row["synchronous"]["train_share"] for row in measured]
        figures.append(shown(f"x {x:g}, as it was measured", shares, "share"))
        if is_claim:
            ages = [row["asynchronous"]["age_mean"] for row in measured]
            figures.append(shown("asynchronous, mean age of groups", ages, "versions"))
            busy = [row["asynchronous"]["train_share"] for row in measured]
            figures.append(shown("asynchronous, trainers busy", busy, "share"))
    return figures, settings()


def plan(x: float, seed: int) -> dict[str, float]:
    """Seconds per step of each mode on the virtual clock: same lengths, same steps."""
    from posttrain.loop.simulation import simulate

    system = system_with(x)
    return {
        mode.name: simulate(
            system.colocated() if mode.colocated else system,
            mode.schedule,
            num_steps=mode.steps,
            num_warm_up_steps=mode.warm_up_steps,
            seed=seed,
        ).seconds_per_step
        for mode in MODES
    }


def settings() -> dict[str, Any]:
    return {
        "devices": f"{NUM_ENGINES} engines + {NUM_TRAINERS} trainers; synchronous: all 11 generate,"
        " then all 11 train",
        "samples_per_step": GROUPS * SAMPLES_PER_PROMPT,
        "engine": asdict(SPEED),
        "lengths": f"log-normal, median {MEDIAN_TOKENS}, sigma {SIGMA}, cut at "
        f"{LONGEST_MEDIANS} medians",
        "staleness": asdict(ASYNCHRONOUS),
        "steps": {mode.name: [mode.warm_up_steps, mode.steps] for mode in MODES},
        "overlap": "engines take new weights only when they have finished their answers",
    }


def system_with(x: float) -> System:
    """Trainers just so fast that training is x of the synchronous step."""
    from posttrain.loop.simulation import simulate

    lengths = AnswerLengths(MEDIAN_TOKENS, SIGMA, MEDIAN_TOKENS * LONGEST_MEDIANS)
    free = System(
        NUM_ENGINES,
        NUM_TRAINERS,
        SPEED,
        TrainerSpeed(1e-12),
        lengths,
        GROUPS,
        SAMPLES_PER_PROMPT,
    )
    generating_s = simulate(free.colocated(), SYNCHRONOUS, num_steps=200).seconds_per_step
    training_s = generating_s * x / (1 - x)
    per_token_s = training_s * free.num_devices / free.tokens_per_step
    return replace(free, trainer=TrainerSpeed(per_token_s))


def measure(x: float, seed: int) -> dict[str, Any]:
    """All modes, one after the other, in a process with a Ray of its own."""
    document = json.dumps({"x": x, "seed": seed})
    output = subprocess.run(
        [sys.executable, "-m", __name__, document], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    return json.loads(output.splitlines()[-1])


def play(x: float, seed: int) -> dict[str, Any]:
    """The modes' measurements by name."""
    from posttrain.cluster.environment import prepare_ray

    prepare_ray(None)
    import ray

    from benchmarks.sleeping import EngineActor, TrainerActor

    ray.init(num_cpus=32, include_dashboard=False, log_to_driver=False)
    try:
        system = system_with(x)
        engines: list[Any] = [
            ray.remote(EngineActor).options(num_cpus=1, max_concurrency=64).remote()
            for _ in range(system.num_devices)
        ]
        trainers: list[Any] = [ray.remote(TrainerActor).remote() for _ in range(NUM_TRAINERS)]
        return {mode.name: play_mode(mode, system, seed, engines, trainers) for mode in MODES}
    finally:
        ray.shutdown()


def play_mode(
    mode: Mode, system: System, seed: int, engines: list[Any], trainers: list[Any]
) -> dict[str, float]:
    """One stage from the first prompt to the last step; what its measured steps took."""
    import ray

    from benchmarks.sleeping import CoordinatorActor
    from posttrain.loop.settings import LoopSettings
    from posttrain.types import Sampling, WeightVersion

    num_steps = mode.warm_up_steps + mode.steps + mode.schedule.max_staleness + 1
    workload = Workload("micro", GROUPS, SAMPLES_PER_PROMPT, num_steps, MEDIAN_TOKENS, SIGMA, seed)
    used = system.colocated() if mode.colocated else system
    rule = AdmissionRule(GROUPS, mode.schedule.steps_ahead, mode.schedule.max_staleness)
    sampling = Sampling(workload.longest_tokens)
    loop = LoopSettings(rule, num_steps, SAMPLES_PER_PROMPT, sampling, seed)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        coordinator: Any = ray.remote(CoordinatorActor).options(max_concurrency=256).remote()
        ray.get(coordinator.begin.remote(loop, folder))
        serving = [
            engine.serve.remote(
                coordinator, folder, str(number), SPEED, workload, mode.schedule.has_barrier
            )
            for number, engine in enumerate(engines[: used.num_engines])
        ]
        ends: list[float] = []
        train_s: list[float] = []
        ages: list[int] = []
        ray.get(coordinator.publish.remote(WeightVersion(0, 0, "0", folder)))
        for step in range(mode.warm_up_steps + mode.steps):
            draws, starts = ray.get(coordinator.next_batch.remote(step))
            began = time.perf_counter()
            tokens = sum(sum(workload.lengths(range(draw, draw + 1))) for draw in draws)
            seconds = used.trainer.batch_s(tokens, used.num_trainers)
            ray.get([trainer.train.remote(seconds) for trainer in trainers])
            train_s.append(time.perf_counter() - began)
            ray.get(coordinator.publish.remote(WeightVersion(0, step + 1, str(step), folder)))
            ray.get(coordinator.committed.remote(step + 1))
            ends.append(time.perf_counter())
            ages.extend(step - start for start in starts)
        ray.get(coordinator.close.remote())
        ray.get(serving, timeout=30)
        ray.kill(coordinator)
    first = mode.warm_up_steps - 1
    wall_s = ends[-1] - ends[first]
    measured = ages[mode.warm_up_steps * GROUPS :]
    return {
        "step_s": wall_s / mode.steps,
        "train_share": sum(train_s[mode.warm_up_steps :]) / wall_s,
        "age_mean": statistics.fmean(measured),
        "age_max": max(measured),
    }


if __name__ == "__main__":
    print(json.dumps(play(**json.loads(sys.argv[1]))))
