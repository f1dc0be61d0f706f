"""Every online algorithm that needs no constraints on the same small problem: does it learn, and
does it stay sound?

One model that does part of the arithmetic is trained on by each algorithm, from three seeds, with
128 rollouts a step. Settings are the algorithms' own defaults but for the learning rate, which
belongs to the model's size (`LEARNING_RATE`), and what an algorithm cannot do without (PPO's critic
learns faster than the policy and alone at first; DAPO filters). Nothing was searched for.

Answers may be one version old; ratios are taken to the weights right before the step. "Sound" is
the mean reward of the last steps as a share of the best stretch on the way: an algorithm that
diverges falls back.

ReMax and PPO: their difference in held-out accuracy over the seeds, with its noise (half width of
the 95 % t-interval, at least NOISE_FLOOR points).
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.arithmetic import (
    ARITHMETIC,
    BEFORE,
    PROMPTS_ASKED,
    T95_TWO_DEGREES,
    pipeline,
    run_pipeline,
    scores,
    trainer_rows,
)
from benchmarks.figures import Figure, mean_at_least, shown, worst_at_least

SEEDS = (0, 1, 2)
STEPS = 30
LEARNING_RATE = 3e-4
GROUPS = {"prompts": 16, "samples_per_prompt": 8}
SINGLE = {"prompts": 128, "samples_per_prompt": 1}
STRETCH = 5  # steps whose rewards are averaged
LEAST_GAIN = 1.0  # points, of the worst seed
LEAST_SOUND = 0.85
NOISE_FLOOR = 3.0  # points: one share of 1,024 answers is known to +-3

ALGORITHMS: dict[str, dict[str, Any]] = {  # what differs from the common stage
    "ppo": {
        "batch": SINGLE,
        "algorithm": {"critic_lr": 1e-3, "critic_warmup_steps": 3},
    },
    "remax": {"batch": SINGLE},
    "reinforce_pp": {"batch": SINGLE},
    "rloo": {},
    "grpo": {},
    "dr_grpo": {},
    "dapo": {"filter_no_signal": True},
    "gspo": {},
    "cispo": {},
    "sapo": {},
}


def run() -> tuple[list[Figure], dict[str, Any]]:
    stages = {f"{name}_{seed}": stage(name, seed) for name in ALGORITHMS for seed in SEEDS}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        ran = run_pipeline(Path(folder), pipeline("algorithms", stages, list(stages)))
        solved = scores(ran)
        rewards = {name: _rewards(trainer_rows(ran, name)) for name in stages}
    figures = [shown("before, arithmetic", [solved[BEFORE]], "%")]
    for name in ALGORITHMS:
        own = [f"{name}_{seed}" for seed in SEEDS]
        gains = [solved[each] - solved[BEFORE] for each in own]
        figures.append(worst_at_least(f"{name}, gain, smallest", gains, LEAST_GAIN, "points"))
        sound = [soundness(rewards[each]) for each in own]
        figures.append(worst_at_least(f"{name}, reward at the end / best", sound, LEAST_SOUND, ""))
        figures.append(shown(f"{name}, arithmetic", [solved[each] for each in own], "%"))
    return figures + remax_and_ppo(solved), {
        "seeds": list(SEEDS),
        "steps": STEPS,
        "lr": LEARNING_RATE,
        "stages": {name: stage(name, 0) for name in ALGORITHMS},
        "prompts_asked": PROMPTS_ASKED,
    }


def stage(name: str, seed: int) -> dict[str, Any]:
    """The online stage of one algorithm."""
    own = ALGORITHMS[name]
    common = {
        "kind": "online_rl",
        "model": BEFORE,
        "seed": seed,
        "reward": "arithmetic",
        "data": ARITHMETIC,
        "batch": GROUPS,
        "steps": STEPS,
        "staleness": 1,
        "off_policy": {"proximal": "recompute"},
        "sampling": {"max_new_tokens": 32},
    }
    algorithm = {"name": name, "lr": LEARNING_RATE, **own.get("algorithm", {})}
    return common | own | {"algorithm": algorithm}


def soundness(rewards: Sequence[float]) -> float:
    """The last stretch's mean reward over that of the best one."""
    stretches = [
        statistics.fmean(rewards[i : i + STRETCH]) for i in range(len(rewards) - STRETCH + 1)
    ]
    return stretches[-1] / max(stretches)


def remax_and_ppo(solved: Mapping[str, float]) -> list[Figure]:
    points = [solved[f"remax_{seed}"] - solved[f"ppo_{seed}"] for seed in SEEDS]
    noise = max(NOISE_FLOOR, T95_TWO_DEGREES * statistics.stdev(points) / len(points) ** 0.5)
    return [
        mean_at_least("remax - ppo, mean", points, -noise, "points"),
        shown("remax - ppo, noise", [noise], "points"),
    ]


def _rewards(rows: Sequence[Mapping[str, float]]) -> list[float]:
    return [row["reward/mean"] for row in rows]
