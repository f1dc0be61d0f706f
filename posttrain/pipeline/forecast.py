"""What a pipeline will do and how fast its online stages will be, without starting anything.

Every online_rl stage is run on a virtual clock by the state machine that also runs it for real
(`posttrain.loop.simulation`), under several staleness settings and splits of the same devices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

from posttrain.config.load import LoadedPipeline
from posttrain.config.pipeline import OnlineRlStage
from posttrain.config.strict import StrictModel
from posttrain.loop.latency import SYNCHRONOUS, Schedule, System
from posttrain.loop.limits import speedup_bound
from posttrain.loop.simulation import SimulationResult, simulate
from posttrain.pipeline.assumptions import Assumption, Processes, assume, processes_of
from posttrain.pipeline.calibration import fitted
from posttrain.pipeline.check_algorithms import stage_needs
from posttrain.stages.schedule import ahead_within, answers_per_step

MIN_STEPS, MAX_STEPS = 12, 40
MAX_COLUMNS = 7
TOLERANCE = 0.03  # speeds that differ by less are taken for equal
MAX_AHEAD = 4
START_S = 12.0  # engines and trainers, until the first step begins


@dataclass(frozen=True, slots=True)
class Column:
    """One staleness setting of the table."""

    schedule: Schedule
    result: SimulationResult
    is_present: bool  # what the file says


@dataclass(frozen=True, slots=True)
class Law:
    """The bound f / x on what asynchrony can win, and what was reached."""

    trainer_share: float  # f
    training_share: float  # x, of the synchronous step on all devices
    synchronous_s: float  # that step
    bound: float
    reached: float


@dataclass(frozen=True, slots=True)
class Advice:
    """A setting that is better than the file's. Without settings: what the file says is good."""

    schedule: Schedule
    result: SimulationResult  # of the schedule, with the file's processes
    changes_schedule: bool
    processes: Processes
    split_result: SimulationResult  # of both
    changes_processes: bool
    other_splits: int  # that the same devices would allow


@dataclass(frozen=True, slots=True)
class StageForecast:
    """What the virtual clock says of one online_rl stage."""

    name: str
    stage: OnlineRlStage
    system: System
    parts: int  # that the simulated system is one of
    num_steps: int  # simulated
    columns: tuple[Column, ...]
    law: Law
    advice: Advice
    assumptions: tuple[Assumption, ...]
    measured_in: str  # the stage folder of an earlier run; empty where there is none
    measured_at: float  # unix time of its last step
    measured_steps: int

    @property
    def present(self) -> Column:
        return next(column for column in self.columns if column.is_present)

    @property
    def seconds(self) -> float:
        """Expected seconds of the stage, without asking suites."""
        return START_S + self.stage.steps * self.present.result.seconds_per_step


def forecast_stage(
    loaded: LoadedPipeline,
    name: str,
    config: StrictModel,
    run: Path,
    *,
    engines: int | None = None,
    trainers: int | None = None,
) -> StageForecast:
    """Simulate one stage. `config` is its algorithm's; `run` is where an earlier run may lie."""
    stage = loaded.pipeline.stages[name]
    assert isinstance(stage, OnlineRlStage)
    processes = processes_of(loaded, stage, engines, trainers)
    places = processes.engines * loaded.cluster.engine.max_running
    greedy = stage_needs(stage, config, loaded.base_dir).greedy
    answers = answers_per_step(stage, greedy)
    schedule = schedule_of(stage, stage.staleness.max, places, answers)
    system, assumptions, measured = assume(loaded, name, processes, schedule, run, config)
    clock = _Clock(system)
    columns = tuple(
        Column(each, clock.run(each), each == schedule)
        for each in (
            schedule_of(stage, maximum, places, answers)
            for maximum in staleness_columns(stage.staleness.max)
        )
    )
    return StageForecast(
        name=name,
        stage=stage,
        system=system,
        parts=clock.parts,
        num_steps=clock.num_steps,
        columns=columns,
        law=_law(clock, schedule),
        advice=_advise(clock, schedule),
        assumptions=assumptions,
        measured_in=measured.path,
        measured_at=measured.ended,
        measured_steps=measured.num_steps,
    )


def schedule_of(stage: OnlineRlStage, maximum: int, places: int, answers: int) -> Schedule:
    """The schedule with this bound: the file's `ahead` where it says one, else what fills."""
    ahead = ahead_within(stage, maximum, places, answers)
    return Schedule(ahead, maximum, sync_every=min(stage.staleness.sync_every, ahead + 1))


def staleness_columns(maximum: int) -> list[int]:
    """0 to maximum + 2, thinned where that is too many to show."""
    every = list(range(maximum + 3))
    if len(every) <= MAX_COLUMNS:
        return every
    powers = [0, *(2**k for k in range(maximum.bit_length()) if 2**k < maximum)]
    return [*powers[-(MAX_COLUMNS - 3) :], maximum, maximum + 1, maximum + 2]


@dataclass(slots=True)
class _Clock:
    """Simulations of one stage; each is carried out once."""

    system: System
    num_steps: int = 0
    parts: int = 1
    known: dict[tuple[Schedule, int, int], SimulationResult] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.parts = fitted(self.system, MIN_STEPS)[1]
        rollouts = self.system.rollouts_per_step // self.parts
        self.num_steps = max(MIN_STEPS, min(MAX_STEPS, 10_000 // rollouts))

    def run(self, schedule: Schedule, system: System | None = None) -> SimulationResult:
        """The result for this schedule, on another system of the same size where one is given."""
        system = system or self.system
        key = (schedule, system.num_engines, system.num_trainers)
        if key not in self.known:
            small, _ = fitted(system, MIN_STEPS)
            self.known[key] = simulate(small, schedule, num_steps=self.num_steps)
        return self.known[key]


def _law(clock: _Clock, schedule: Schedule) -> Law:
    together = clock.system.colocated()
    synchronous = clock.run(SYNCHRONOUS, together)
    share = synchronous.train_s / synchronous.seconds_per_step
    return Law(
        trainer_share=clock.system.trainer_share,
        training_share=share,
        synchronous_s=synchronous.seconds_per_step,
        bound=speedup_bound(clock.system.trainer_share, share),
        reached=synchronous.seconds_per_step / clock.run(schedule).seconds_per_step,
    )


def _advise(clock: _Clock, present: Schedule) -> Advice:
    best = _best_schedule(clock)
    now, then = clock.run(present), clock.run(best)
    is_faster = then.seconds_per_step < now.seconds_per_step * (1 - TOLERANCE)
    is_younger = then.age_mean < now.age_mean - 0.25
    is_as_fast = then.seconds_per_step < now.seconds_per_step * (1 + TOLERANCE)
    if not (is_faster or (is_younger and is_as_fast)):
        best, then = present, now
    splits = _splits(clock.system)
    here = Processes(clock.system.num_engines, clock.system.num_trainers)
    # Numbers of engines that the parts divide, so that no simulation is larger than the others.
    comparable = [each for each in splits if each.engines % clock.parts == 0]
    split = min(
        (here, *_likely_splits(clock.system, comparable, best)),
        key=lambda each: clock.run(best, _with(clock.system, each)).seconds_per_step,
    )
    result = clock.run(best, _with(clock.system, split))
    if result.seconds_per_step > then.seconds_per_step * (1 - TOLERANCE):
        split, result = here, then
    return Advice(best, then, best != present, split, result, split != here, len(splits) - 1)


def _best_schedule(clock: _Clock) -> Schedule:
    """The least `ahead`, and then the least `max`, that is as fast as more of both would be."""
    most = clock.run(Schedule(MAX_AHEAD, MAX_AHEAD + 2)).seconds_per_step * (1 + TOLERANCE)
    ahead = next(
        (
            each
            for each in range(1, MAX_AHEAD)
            if clock.run(Schedule(each, each + 2)).seconds_per_step <= most
        ),
        MAX_AHEAD,
    )
    for slack in (0, 1):
        schedule = Schedule(ahead, ahead + slack)
        if clock.run(schedule).seconds_per_step <= most:
            return schedule
    return Schedule(ahead, ahead + 2)


def _with(system: System, processes: Processes) -> System:
    return replace(system, num_engines=processes.engines, num_trainers=processes.trainers)


def _splits(system: System) -> list[Processes]:
    """Every way to share the same devices between engines and trainers."""
    splits = []
    for engines in range(1, system.num_devices // system.devices_per_engine + 1):
        left = system.num_devices - engines * system.devices_per_engine
        trainers = left // system.devices_per_trainer
        if trainers >= 1:
            splits.append(Processes(engines, trainers))
    return splits


def _likely_splits(system: System, splits: list[Processes], schedule: Schedule) -> list[Processes]:
    """The few that may be best: where generating and training a batch take the same time."""
    by_time = sorted(splits, key=lambda each: _least_s(_with(system, each), schedule))
    return by_time[:3]


def _least_s(system: System, schedule: Schedule) -> float:
    """Seconds per step if nobody ever waited for a particular answer."""
    training = system.trainer.batch_s(system.tokens_per_step, system.num_trainers)
    in_flight = system.answers_per_step * max(1, schedule.steps_ahead)
    depth = min(system.engine.max_running, math.ceil(in_flight / system.num_engines))
    tokens = system.answers_per_step * system.lengths.mean_tokens / system.num_engines
    return max(training, tokens / depth * system.engine.step_s(depth) + system.engine.sync_s)
