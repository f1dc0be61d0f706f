"""The coordinator's own state machine on a virtual clock: how fast a stage would be, and how stale.

    prompts --Machine.assign--> engines (processor sharing) --> scores --> Machine
                     ^                                                       |
                acknowledge                                             take_batch
                     |                                                       v
                  engines <-------------- publish <-------------------- trainers

Five kinds of events, in one heap: an engine finishes its next sample, a group gets its scores, the
trainers finish a batch, new weights are given out, engines acknowledge them. Between events nothing
changes: all samples of an engine advance together, at the speed that `EngineSpeed` states for so
many. So an event costs what its samples cost, whatever the number of engines. No real clock, no
processes; equal seeds give equal results, and every schedule sees the same answer lengths.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from posttrain.loop.admission import AdmissionRule
from posttrain.loop.latency import LengthTable, Schedule, System
from posttrain.loop.machine import Machine
from posttrain.loop.simulation_result import SimulationResult, Totals, measured


def simulate(
    system: System,
    schedule: Schedule,
    *,
    num_steps: int = 40,
    num_warm_up_steps: int | None = None,
    seed: int = 0,
) -> SimulationResult:
    """Run one stage on the virtual clock. Raises ValueError for a schedule that cannot be."""
    warm_up = 2 * schedule.max_staleness + 4 if num_warm_up_steps is None else num_warm_up_steps
    return _Simulation(system, schedule, warm_up, num_steps, seed).run()


class _Engine:
    """Samples that advance together. `progress` is how many tokens each of them would have by now,
    had it been there from the start; a sample ends when it has risen by the sample's length.
    """

    __slots__ = ("busy_s", "epoch", "last_s", "name", "progress", "running", "sample_s", "version")

    def __init__(self, name: str) -> None:
        self.name = name
        self.version = 0  # acknowledged
        self.running: list[tuple[float, int, int, int]] = []  # heap: ends at, draw, sample, version
        self.progress = 0.0
        self.last_s = 0.0  # when `progress` was right; in the future while standing still
        self.epoch = 0  # of its event in the heap: older ones mean nothing any more
        self.busy_s = 0.0
        self.sample_s = 0.0  # integral of running samples over busy time

    def advance(self, now_s: float, step_s: float) -> None:
        """Bring `progress` up to now; `step_s` is the time per token since the last call."""
        passed = now_s - self.last_s
        if passed <= 0:
            return
        if self.running:
            self.progress += passed / step_s
            self.busy_s += passed
            self.sample_s += passed * len(self.running)
        self.last_s = now_s


class _Simulation:
    def __init__(
        self, system: System, schedule: Schedule, warm_up: int, num_steps: int, seed: int
    ) -> None:
        rule = AdmissionRule(system.groups_per_step, schedule.steps_ahead, schedule.max_staleness)
        # More steps than are measured, so that the last ones see no end coming.
        planned = warm_up + num_steps + schedule.max_staleness + 2
        filters = system.filtered_share > 0
        self.machine = Machine(
            rule,
            planned,
            system.answers_per_prompt,
            filter_no_signal=filters,
            whole_groups=system.greedy,
        )
        self.chance = random.Random(seed + 1)
        self.system, self.schedule = system, schedule
        self.warm_up, self.last_step = warm_up, warm_up + num_steps
        self.lengths = LengthTable(system.lengths, system.answers_per_prompt, seed)
        self.events: list[tuple[float, int, Callable[..., None], Any, Any]] = []
        self.num_events = 0
        self.engines = {str(n): _Engine(str(n)) for n in range(system.num_engines)}
        self.starts: dict[int, int] = {}  # draw -> lowest start version of its samples
        self.totals = Totals()
        self.step = 0  # batches trained
        self.is_training = False
        self.held_up_since_s: float | None = None
        self.published = 0  # newest version the trainers made
        self.acknowledged = 0
        for engine in self.engines.values():
            self.machine.join(engine.name, system.engine.max_running)
            self.machine.acknowledge(engine.name, 0)

    def run(self) -> SimulationResult:
        before = Totals()
        while self.step < self.last_step:
            self._react()
            if not self.events:
                raise RuntimeError(f"step {self.step} cannot be served: nothing is under way")
            now_s, _, handle, first, second = heapq.heappop(self.events)
            self._pass_time(now_s)
            was = self.step
            handle(first, second)
            if self.step == self.warm_up != was:
                before = self._snapshot()
        return measured(before, self._snapshot(), self.system, self.warm_up, self.last_step)

    # -- events ---------------------------------------------------------------------------------

    def _at(
        self, time_s: float, handle: Callable[..., None], first: Any = None, second: Any = None
    ) -> None:
        self.num_events += 1  # equal times: first come, first served
        heapq.heappush(self.events, (time_s, self.num_events, handle, first, second))

    def _pass_time(self, now_s: float) -> None:
        totals = self.totals
        in_flight = self.machine.num_running + self.machine.num_buffered
        totals.groups_s += (now_s - totals.now_s) * in_flight
        totals.now_s = now_s

    def _engine_finishes(self, engine: _Engine, epoch: int) -> None:
        if epoch != engine.epoch:
            return
        now_s = self.totals.now_s
        engine.advance(now_s, self.system.engine.step_s(len(engine.running)))
        engine.progress = limit = engine.running[0][0]  # exactly, whatever was rounded
        while engine.running and engine.running[0][0] <= limit:
            _, draw, sample, version = heapq.heappop(engine.running)
            if self.machine.sample_finished(draw, sample, version) == "complete":
                if self.system.score_s:
                    self._at(now_s + self.system.score_s, self._group_scored, draw)
                else:
                    self._group_scored(draw)
        self._schedule(engine)

    def _group_scored(self, draw: int, _: Any = None) -> None:
        share = self.system.filtered_share
        has_signal = not share or self.chance.random() >= share
        for decided, verdict in self.machine.group_scored(draw, has_signal):
            if verdict == "filtered":
                del self.starts[decided]

    def _trained(self, tokens: float, _: Any) -> None:
        self.totals.tokens += tokens
        self.step += 1
        self.is_training = False
        self._publish_when_possible()

    def _publish_when_possible(self) -> None:
        """One publication at a time; behind a barrier only while nothing is generated."""
        due = self._due()
        if self.published != self.acknowledged or self.published == due:
            return
        if self.schedule.has_barrier and self.machine.num_running:
            return
        self.published = due
        now_s, sync_s = self.totals.now_s, self.system.engine.sync_s
        if sync_s:
            for engine in self.engines.values():
                engine.advance(now_s, self.system.engine.step_s(len(engine.running)))
                engine.last_s = now_s + sync_s
                self._schedule(engine)
            self.totals.stall_s += sync_s * len(self.engines)
        self._at(now_s + sync_s, self._acknowledged, self.published)

    def _due(self) -> int:
        """The newest version that engines are told of."""
        return self.step - self.step % self.schedule.sync_every

    def _acknowledged(self, version: int, _: Any) -> None:
        self.acknowledged = version
        for engine in self.engines.values():
            engine.version = version
            self.machine.acknowledge(engine.name, version)

    # -- what an event makes possible -------------------------------------------------------------

    def _react(self) -> None:
        if self.published != self._due():
            self._publish_when_possible()
        if not self.is_training and self._may_train():
            self._train()
        touched: dict[str, _Engine] = {}
        for assignment in self.machine.assign():
            engine = self.engines[assignment.engine]
            if engine.name not in touched:
                engine.advance(self.totals.now_s, self.system.engine.step_s(len(engine.running)))
                touched[engine.name] = engine
            start = self.starts.get(assignment.draw, engine.version)
            self.starts[assignment.draw] = min(start, engine.version)
            for sample in assignment.samples:
                ends_at = engine.progress + self.lengths.of(assignment.draw, sample)
                heapq.heappush(engine.running, (ends_at, assignment.draw, sample, engine.version))
        for engine in touched.values():
            self._schedule(engine)

    def _may_train(self) -> bool:
        """The trainers wait for the publication before the last; behind a barrier for the last."""
        behind = self._due() - self.acknowledged
        return behind <= (0 if self.schedule.has_barrier else self.schedule.sync_every)

    def _train(self) -> None:
        draws = self.machine.take_batch(self.step)
        now_s = self.totals.now_s
        if draws is None:
            enough = self.machine.num_buffered >= self.system.groups_per_step
            if enough and self.held_up_since_s is None:
                self.held_up_since_s = now_s
            return
        if self.held_up_since_s is not None:
            self.totals.held_up_s += now_s - self.held_up_since_s
            self.held_up_since_s = None
        tokens = self.system.prompt_tokens * self.system.rollouts_per_step
        for draw in draws:
            tokens += self.lengths.of_draw(draw)
            if self.system.greedy:  # the last answer of each draw
                tokens -= self.lengths.of(draw, self.system.samples_per_prompt)
            self.totals.ages[self.step - self.starts.pop(draw)] += 1
        self.machine.committed(self.step)  # what was served before is not asked for again
        self.is_training = True
        train_s = self.system.trainer.batch_s(tokens, self.system.num_trainers)
        self.totals.train_s += train_s
        self._at(now_s + train_s, self._trained, tokens)

    def _schedule(self, engine: _Engine) -> None:
        engine.epoch += 1
        if engine.running:
            left = engine.running[0][0] - engine.progress
            wait_s = left * self.system.engine.step_s(len(engine.running))
            self._at(engine.last_s + wait_s, self._engine_finishes, engine, engine.epoch)

    # -- measuring ------------------------------------------------------------------------------

    def _snapshot(self) -> Totals:
        now = self.totals
        for engine in self.engines.values():
            engine.advance(now.now_s, self.system.engine.step_s(len(engine.running)))
        return Totals(
            now_s=now.now_s,
            busy_s=sum(engine.busy_s for engine in self.engines.values()),
            sample_s=sum(engine.sample_s for engine in self.engines.values()),
            stall_s=now.stall_s,
            train_s=now.train_s,
            held_up_s=now.held_up_s,
            tokens=now.tokens,
            groups_s=now.groups_s,
            ages=Counter(now.ages),
        )
