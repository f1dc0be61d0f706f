"""Fitting the simulation to what is known, and to the time there is."""

from __future__ import annotations

from dataclasses import replace

from posttrain.loop.latency import AnswerLengths, EngineSpeed, Schedule, System
from posttrain.loop.simulation import simulate

CALIBRATION_STEPS = 10
MAX_ROLLOUTS = 14_000  # of one simulation: about a quarter of a second
MIN_ROLLOUTS_PER_STEP = 256


def lengths_with_mean(mean_tokens: float, sigma: float, longest: int) -> AnswerLengths:
    """The log-normal lengths with this spread whose mean, cut at `longest`, is as given."""
    low, high = 1.0, float(longest)
    for _ in range(50):
        middle = (low + high) / 2
        if AnswerLengths(middle, sigma, longest).mean_tokens < mean_tokens:
            low = middle
        else:
            high = middle
    return AnswerLengths(high, sigma, longest)


def calibrated(system: System, schedule: Schedule, tokens_per_s: float) -> System:
    """The engines sped up or slowed down until a busy one gives so many answer tokens per second.

    The earlier run says one figure; how a step's time splits into a fixed and a growing part stays
    as the preset has it.
    """
    for _ in range(2):  # another speed keeps the engines fuller or emptier
        small = fitted(system, CALIBRATION_STEPS)[0]
        seen = simulate(small, schedule, num_steps=CALIBRATION_STEPS)
        answers = seen.tokens_per_s - seen.rollouts_per_s * small.prompt_tokens
        busy = answers / small.num_engines / seen.engine_busy_share
        engine = _scaled(system.engine, busy / tokens_per_s)
        system = replace(system, engine=engine)
    return system


def _scaled(engine: EngineSpeed, factor: float) -> EngineSpeed:
    return replace(
        engine, base_s=engine.base_s * factor, per_sequence_s=engine.per_sequence_s * factor
    )


def fitted(system: System, num_steps: int) -> tuple[System, int]:
    """(the system, or a part of it that can be simulated in a moment; how many parts there are)."""
    wanted = system.rollouts_per_step * num_steps / MAX_ROLLOUTS
    wanted = min(wanted, system.rollouts_per_step / MIN_ROLLOUTS_PER_STEP)
    factors = [
        factor
        for factor in range(1, int(wanted) + 1)
        if system.num_engines % factor == 0 and system.groups_per_step % factor == 0
    ]
    factor = max(factors, default=1)
    return (system.smaller(factor) if factor > 1 else system), factor
