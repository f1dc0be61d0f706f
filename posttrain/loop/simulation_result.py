"""What a simulation counts while it runs, and what it says in the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from posttrain.loop.latency import System


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """What the virtual clock showed in `num_steps` steps, after `num_warm_up_steps` more.

    Shares are 0..1, of the measured time. A group's age is the version that its batch was trained
    from, less the version under which the group began: no token of it is older.
    """

    num_steps: int
    num_warm_up_steps: int
    seconds_per_step: float
    rollouts_per_s: float
    tokens_per_s: float  # trained, prompts included
    engine_busy_share: float  # mean over engines: something is being generated
    engine_depth: float  # samples decoded together, mean over engines and their busy time
    engine_stall_share: float  # standing still for new weights
    trainer_busy_share: float
    trainer_wait_s: float  # per step, for a batch
    held_up_s: float  # of it: enough groups were finished, but older ones had to come first
    train_s: float  # per step
    age_mean: float
    age_max: int
    age_shares: Mapping[int, float]  # of groups
    groups_in_flight: float  # begun and not yet given to the trainers; mean over time


@dataclass(slots=True)
class Totals:
    """What is counted; the difference between two moments is the measurement."""

    now_s: float = 0.0
    busy_s: float = 0.0  # engines
    sample_s: float = 0.0
    stall_s: float = 0.0
    train_s: float = 0.0
    held_up_s: float = 0.0
    tokens: float = 0.0
    groups_s: float = 0.0  # integral of groups in flight
    ages: Counter[int] = field(default_factory=Counter)


def measured(
    before: Totals, after: Totals, system: System, warm_up: int, last_step: int
) -> SimulationResult:
    """What happened between two moments: the ends of steps `warm_up` and `last_step`."""
    steps = last_step - warm_up
    seconds = after.now_s - before.now_s
    busy_s = after.busy_s - before.busy_s
    engine_s = seconds * system.num_engines
    train_s = after.train_s - before.train_s
    ages = after.ages - before.ages
    groups = sum(ages.values())
    return SimulationResult(
        num_steps=steps,
        num_warm_up_steps=warm_up,
        seconds_per_step=seconds / steps,
        rollouts_per_s=steps * system.rollouts_per_step / seconds,
        tokens_per_s=(after.tokens - before.tokens) / seconds,
        engine_busy_share=busy_s / engine_s,
        engine_depth=(after.sample_s - before.sample_s) / busy_s if busy_s else 0.0,
        engine_stall_share=(after.stall_s - before.stall_s) / engine_s,
        trainer_busy_share=train_s / seconds,
        trainer_wait_s=(seconds - train_s) / steps,
        held_up_s=(after.held_up_s - before.held_up_s) / steps,
        train_s=train_s / steps,
        age_mean=sum(age * number for age, number in ages.items()) / groups,
        age_max=max(ages),
        age_shares={age: ages[age] / groups for age in sorted(ages)},
        groups_in_flight=(after.groups_s - before.groups_s) / seconds,
    )
