"""A whole online stage in one event loop: the real coordinator, real workers with fake engines and
real journal files, a trainer in small, and processes that can be killed.

A `Process` is a set of tasks that end together. A call into another process is a task of that one:
it goes on when the caller dies, and raises ProcessDied to the caller when the callee dies. That is
how Ray behaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from posttrain.errors import (
    EngineFailed,
    PosttrainError,
    ProcessDied,
    WeightsGone,
)
from posttrain.loop.admission import AdmissionRule
from posttrain.loop.coordinator import Coordinator
from posttrain.loop.ledger import Ledger
from posttrain.loop.settings import LoopSettings
from posttrain.rollout.fake_engine import FakeEngine
from posttrain.rollout.journal import JournalWriter, is_whole, read_rollout
from posttrain.rollout.samples import Answer
from posttrain.rollout.worker import RolloutWorker, WorkerSettings
from posttrain.types import Prompt, Sampling, Score, Scoring, WeightVersion

CHECKED_EVERY_S = 1.0  # how often the crew looks after its engines
END_DEADLINE_S = 15.0  # for engines to come back from a stage that is over

_process: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


@dataclass(frozen=True)
class Plan:
    """One history, but for what its seed decides on the way."""

    seed: int
    rule: AdmissionRule
    num_steps: int = 8
    samples: int = 2
    engines: int = 2
    capacity: int = 8
    filters: bool = False
    commit_every: int = 3
    probe_every: int = 3
    heldout_every: int = 0
    sample_s: float = 3.0  # scale of a heavy-tailed time
    update_s: float = 0.5
    step_s: float = 5.0
    score_s: float = 0.5
    broken: frozenset[int] = frozenset()  # draws whose verifier breaks,
    hanging: frozenset[int] = frozenset()  # never answers,
    flat: frozenset[int] = frozenset()  # gives every sample the same score
    refused: frozenset[int] = frozenset()  # draws that no engine can generate
    refused_once: frozenset[int] = frozenset()  # of which one sample is given back, once
    lost_answers: float = 0.0  # share of exchanges whose answer is lost
    same_checksums: bool = True  # training again gives the same weights
    faults: tuple[tuple[float, str], ...] = ()  # (seconds after the one before, what happens)

    @property
    def settings(self):
        return LoopSettings(
            rule=self.rule,
            num_steps=self.num_steps,
            samples_per_prompt=self.samples,
            sampling=Sampling(24),
            seed=self.seed,
            filter_no_signal=self.filters,
            heldout_every=self.heldout_every,
            score_deadline_s=300.0,
            stuck_deadline_s=3000.0,  # fake engines count tokens when an answer is whole
            most_engine_losses=1000,
        )


class Process:
    """Tasks that end together."""

    def __init__(self, name):
        self.name = name
        self.is_alive = True
        self._tasks = set()

    def run(self, coroutine):
        context = contextvars.copy_context()
        context.run(_process.set, self)
        return asyncio.get_running_loop().create_task(coroutine, context=context)

    def kill(self):
        self.is_alive = False
        for task in list(self._tasks):
            task.cancel()

    async def ask(self, coroutine):
        """What it returns or raises; ProcessDied where this process dies before."""
        if not self.is_alive:
            coroutine.close()
            raise ProcessDied(f"{self.name} is dead")
        task = self.run(coroutine)
        await asyncio.wait({task})
        if task.cancelled() or not self.is_alive:
            raise ProcessDied(f"{self.name} has died")
        return task.result()

    @staticmethod
    def factory(loop, coroutine, context=None):
        task = asyncio.Task(coroutine, loop=loop, context=context)
        process = (context or contextvars.copy_context()).get(_process)
        if process is not None:
            process._tasks.add(task)
            task.add_done_callback(process._tasks.discard)
            if not process.is_alive:
                task.cancel()
        return task


class Prompts:
    def at(self, draw):
        return Prompt(f"p/{draw}", "p", (1, 2, draw), "", {"draw": draw})


class Events:
    def __init__(self):
        self.events, self.metrics = [], []

    def log(self, metrics, **axes):
        self.metrics.append((axes, dict(metrics)))

    def event(self, name, **details):
        self.events.append((name, details))

    def samples(self, step, rows): ...

    def span(self, track, name, start_s, end_s, **details): ...


class Rewards:
    """Reads the answers where the engines wrote them, as the real reward worker does."""

    def __init__(self, world):
        self._world = world

    async def score(self, prompt, refs):
        plan, draw = self._world.plan, prompt.row["draw"]
        await asyncio.sleep(self._world.dice.expovariate(1 / plan.score_s))
        rollouts = [read_rollout(ref, "", prompt.token_ids) for ref in refs]
        if draw in plan.hanging:
            await asyncio.sleep(1e6)
        if draw in plan.broken:
            return Scoring((None,) * len(refs), ("raised ZeroDivisionError",))
        values = [1.0 if draw in plan.flat else float(each.sample % 2) for each in rollouts]
        return Scoring(tuple(Score(value, passed=value > 0) for value in values))


class WorldEngine(FakeEngine):
    """Notes what it is asked to generate, refuses what the plan says, and takes weights from where
    the trainer put them.
    """

    world: World

    def submit(self, tasks):
        taken = []
        for task in tasks:
            lane, draw, _ = task.key
            if lane == "train" and self.world.refuses(draw, self.name):
                self._answers.append(Answer(task, self.version, None, "too long"))
                self._news.set()
                continue
            if task.key in self.world.written:
                self.world.wrong(f"{task.key} is generated again, though its answer is written")
            taken.append(task)
        super().submit(taken)

    async def update_weights(self, version):
        if version.location not in self.world.files:
            raise WeightsGone(f"{version.location} is gone")
        if version.version < self.version:
            self.world.wrong(f"engine {self.name} goes back from {self.version} to {version}")
        return await super().update_weights(version)


class WorldJournal(JournalWriter):
    def __init__(self, world, *where):
        self._world = world
        super().__init__(*where)

    def finished_many(self, samples):
        refs = super().finished_many(samples)
        for lane, draw, rollout, _ in samples:
            if lane == "train":
                self._world.written.add((lane, draw, rollout.sample))
        return refs


class Line:
    """CoordinatorPort of one engine. Calls arrive in order; `mute_until` holds them back."""

    def __init__(self, world):
        self._world = world
        self.mute_until = 0.0
        self._arrives = 0.0

    async def exchange(self, report):
        loop, dice = asyncio.get_running_loop(), self._world.dice
        asked = loop.create_task(self._deliver(report))  # goes on when the caller gives it up
        try:
            answer = await asyncio.shield(asked)
        except asyncio.CancelledError:
            asked.add_done_callback(lambda task: task.cancelled() or task.exception())
            raise
        await asyncio.sleep(dice.random() * 0.02)
        if dice.random() < self._world.plan.lost_answers:
            raise ProcessDied("an answer was lost")
        return answer

    async def _deliver(self, report):
        loop = asyncio.get_running_loop()
        self._arrives = max(
            loop.time() + self._world.dice.random() * 0.02, self._arrives + 1e-6, self.mute_until
        )
        while loop.time() < self._arrives:
            await asyncio.sleep(self._arrives - loop.time())
        return await self._world.ask(lambda coordinator: coordinator.exchange(report))


class Engine:
    """An engine's process with its worker."""

    def __init__(self, world, name):
        self.name = name
        self.process = Process(f"engine {name}")
        self.line = Line(world)
        self._world = world
        self.engine = WorldEngine(
            name,
            latency=lambda prompt, sample, num: min(
                200.0, world.plan.sample_s * world.dice.paretovariate(1.2) * num / 24
            ),
            update_s=world.dice.expovariate(1 / world.plan.update_s),
        )
        self.engine.world = world
        self.serving = None

    def serve(self):
        world = self._world
        unique = f"{world.dice.getrandbits(32):08x}"
        worker = RolloutWorker(
            self.engine,
            self.line,
            WorldJournal(world, world.folder / "journal", self.name, unique),
            name=self.name,
            process=unique,
            capacity=world.plan.capacity,
            settings=WorkerSettings(journal_every_tokens=4, journal_check_s=2.0),
        )
        self.serving = self.process.run(worker.serve())
        return self

    def kill(self):
        self.process.kill()
        newest = sorted((self._world.folder / "journal").glob(f"{self.name}-*"))[-1]
        if newest.exists() and self._world.dice.random() < 0.5:
            whole = newest.read_bytes()
            with newest.open("ab") as file:  # it was just writing a record down
                file.write(whole[: self._world.dice.randrange(1, 40)])


@dataclass
class World:
    """Everything that outlives processes: files, commits, and what is held against the engine."""

    plan: Plan
    folder: Path
    events: Events = field(default_factory=Events)
    written: set = field(default_factory=set)  # samples whose whole answer is in a journal
    files: set = field(default_factory=set)  # weights that can still be read
    commit: tuple | None = None  # (step, the coordinator's snapshot)
    attempts: int = 0
    batches: dict = field(default_factory=dict)  # step: groups, as first served
    errors: list = field(default_factory=list)
    history: list = field(default_factory=list)  # (when, what) for people
    num_engines: int = 0
    coordinator: Coordinator | None = None
    host: Process | None = None  # the coordinator's
    engines: list = field(default_factory=list)
    trainer: Process | None = None
    refused: Counter = field(default_factory=Counter)
    starting: set = field(default_factory=set)  # engines that take the place of lost ones
    on_disk: dict = field(default_factory=dict)  # bytes of each file that outlive a power cut

    def __post_init__(self):
        self.dice = random.Random(self.plan.seed)

    def wrong(self, what):
        self.errors.append(what)

    def note(self, what):
        self.history.append((round(asyncio.get_running_loop().time(), 2), what))

    def refuses(self, draw, engine):
        if draw in self.plan.refused:
            return True
        if draw in self.plan.refused_once and not self.refused[draw]:
            self.refused[draw] += 1
            return True
        return False

    # -- the coordinator's process ----------------------------------------------------------------

    def start_coordinator(self):
        self.host = Process("the coordinator")
        ledger = Ledger(
            self.folder / "ledger.jsonl",
            self.commit[1] if self.commit else None,
            is_readable=is_whole,
        )
        heldout = [Prompts().at(10**6 + i) for i in range(3)] if self.plan.heldout_every else []
        self.coordinator = Coordinator(
            self.plan.settings,
            Prompts(),
            Rewards(self),
            self.events,
            ledger,
            self.folder / "journal",
            heldout,
        )

    def kill_coordinator(self):
        self.host.kill()
        self.coordinator._ledger.close()  # the file alone
        if self.dice.random() < 0.5:
            with (self.folder / "ledger.jsonl").open("ab") as file:
                file.write(b'{"event": "admitted", "dr')

    async def ask(self, method):
        await asyncio.sleep(0)
        return await self.host.ask(method(self.coordinator))

    # -- engines ----------------------------------------------------------------------------------

    def start_engine(self):
        self.num_engines += 1
        engine = Engine(self, f"e{self.num_engines}").serve()
        self.engines.append(engine)
        return engine

    async def look_after_engines(self):
        """As the crew does: replace engines that have ended, or that were given up."""
        while True:
            await asyncio.sleep(CHECKED_EVERY_S)
            for engine in [each for each in self.engines if each.serving.done()]:
                error = self._end_of(engine)
                self.note(f"engine {engine.name} ended: {error.message}")
                with contextlib.suppress(ProcessDied):
                    await self.ask(lambda c, e=engine, why=error: c.engine_died(e.name, why))
                self._replace(engine)
            lost = {}
            with contextlib.suppress(ProcessDied):
                lost = await self.ask(_lost_engines)
            for engine in [each for each in self.engines if each.name in lost]:
                self.note(f"engine {engine.name} was given up: {lost[engine.name]}")
                engine.kill()
                self._replace(engine)

    def _end_of(self, engine):
        if engine.serving.cancelled():
            return EngineFailed(f"engine {engine.name} was killed")
        error = engine.serving.exception() or EngineFailed("it left while the stage goes on")
        if not isinstance(error, PosttrainError):
            self.wrong(f"engine {engine.name} ended with {error!r}")
            error = EngineFailed(repr(error))
        return error

    def _replace(self, engine):
        self.engines.remove(engine)

        async def replace():
            await asyncio.sleep(1 + 20 * self.dice.random())
            self.start_engine()

        task = asyncio.get_running_loop().create_task(replace())
        self.starting.add(task)
        task.add_done_callback(self.starting.discard)

    # -- the trainer ------------------------------------------------------------------------------

    async def call(self, method):
        """As the trainer's handle does it: again once the coordinator is back."""
        while True:
            try:
                return await self.ask(method)
            except ProcessDied:
                await asyncio.sleep(1.0)

    async def train(self):
        """`train.rl_loop.run_training` without a model. "done" or "stopped"."""
        step = saved = self.commit[0] if self.commit else 0
        attempt, self.attempts = self.attempts, self.attempts + 1
        self.files.clear()  # a new publisher removes what a dead one left
        self.note(f"trainer starts at {step}")
        await self._publish(step, attempt)
        await self.call(lambda c: c.wait_acknowledged(step))
        while step < self.plan.num_steps:
            batch = await self.call(lambda c, step=step: c.next_batch(step))
            if batch is None:
                break
            self._check(batch)
            await asyncio.sleep(self.dice.expovariate(1 / self.plan.step_s))
            step += 1
            await self._publish(step, attempt)
            if step % self.plan.probe_every == 0 or step == 1:
                await self._probe(step)
            if step % self.plan.commit_every == 0:
                saved = await self._save(step)
        if step < self.plan.num_steps:
            if saved < step:
                await self._save(step)
            return "stopped"
        return "done"

    async def _publish(self, step, attempt):
        checksum = f"sum {step}" if self.plan.same_checksums else f"sum {attempt}/{step}"
        self.files.add(f"{attempt}/{step}")
        self.files.discard(f"{attempt}/{step - 2}")
        version = WeightVersion(attempt, step, checksum, f"{attempt}/{step}")
        await self.call(lambda c: c.publish(version))

    async def _probe(self, step):
        await self.call(lambda c: c.wait_acknowledged(step))
        for prompt, ref in await self.call(lambda c: c.probe()):
            versions = set(read_rollout(ref, "", prompt.token_ids).versions)
            if versions != {step}:
                self.wrong(f"a probe of version {step} was answered with {versions}")

    async def _save(self, step):
        snapshot = await self.call(lambda c: c.snapshot())
        await asyncio.sleep(self.dice.random())
        self.commit = step, snapshot
        await asyncio.sleep(0.5 * self.dice.random())
        await self.call(lambda c: c.committed(step))
        self.note(f"saved {step}")
        return step

    def _check(self, batch):
        """What must hold for every batch that is trained."""
        step, bound = batch.step, self.plan.rule.max_staleness
        known = self.batches.setdefault(step, batch.groups)
        if known != batch.groups:
            self.wrong(f"step {step} was served with {known}, and then with {batch.groups}")
        draws = [group.draw for group in batch.groups]
        if draws != sorted(set(draws)) or len(draws) != self.plan.rule.groups_per_step:
            self.wrong(f"step {step} is made of the draws {draws}")
        for group in batch.groups:
            prompt = Prompts().at(group.draw)
            rollouts = [read_rollout(ref, "", prompt.token_ids) for ref in group.refs]
            if [each.sample for each in rollouts] != list(range(self.plan.samples)):
                self.wrong(f"draw {group.draw} has the samples {rollouts}")
            versions = {version for each in rollouts for version in each.versions}
            if not step - bound <= min(versions) <= max(versions) <= step:
                self.wrong(f"step {step} trains on tokens of versions {versions}")
            if not step - bound <= group.start_version <= min(versions):
                self.wrong(f"step {step} trains on a group that began at {group.start_version}")

    # -- the driver -------------------------------------------------------------------------------

    async def drive(self, faults):
        """One driver's life: "done", "stopped" or "killed"."""
        self.start_coordinator()
        for _ in range(self.plan.engines):
            self.start_engine()
        loop = asyncio.get_running_loop()
        crew = loop.create_task(self.look_after_engines())
        trouble = loop.create_task(self._trouble(faults))
        try:
            while True:
                self.trainer = Process("the trainer")
                training = self.trainer.run(self.train())
                await asyncio.wait({training, trouble}, return_when=asyncio.FIRST_COMPLETED)
                if trouble.done() and trouble.result() == "killed":
                    return self._die()
                if trouble.done() and trouble.result() == "dark":
                    self._lose_power()
                    return "dark"
                if not training.done():
                    await asyncio.wait({training})
                if not training.cancelled():
                    crew.cancel()
                    await self._close()
                    return training.result()
                await asyncio.sleep(1 + 10 * self.dice.random())
        finally:
            crew.cancel()
            trouble.cancel()

    def _forget_starting(self):
        tasks = list(self.starting)
        for task in tasks:
            task.cancel()
        return len(tasks)

    def _lose_power(self):
        """All processes are gone, and of each file what had not reached the disk, all of it or in
        part: cut off, or a block that was never written.
        """
        self._die()
        for path in (self.folder / "ledger.jsonl", *(self.folder / "journal").glob("*.journal")):
            content = path.read_bytes()
            kept = self.dice.randint(
                min(self.on_disk.get(str(path), 0), len(content)), len(content)
            )
            rest = b"\0" * ((len(content) - kept) if self.dice.random() < 0.5 else 0)
            path.write_bytes(content[:kept] + rest)
        self.written.clear()  # of draws that the ledger has forgotten, all is made again
        first = self.commit[0] if self.commit else 0
        self.batches = {step: each for step, each in self.batches.items() if step < first}

    def _die(self):
        self.note("the driver dies")
        self._forget_starting()
        self.trainer.kill()
        self.kill_coordinator()
        for engine in self.engines:
            engine.kill()
        self.engines.clear()
        return "killed"

    async def _close(self):
        if self._forget_starting():
            self.start_engine()  # it was put to work just before its crew heard of the end
        await self.call(lambda c: c.close())
        now = asyncio.get_running_loop().time()
        serving = [each.serving for each in self.engines if each.line.mute_until <= now]
        if serving:
            _, late = await asyncio.wait(serving, timeout=END_DEADLINE_S)
            if late:
                self.wrong(f"{len(late)} engines have not come back from a stage that is over")
        for engine in self.engines:
            engine.process.kill()
        self.engines.clear()

    async def _trouble(self, faults):
        while faults:
            after_s, fault = faults.pop(0)
            await asyncio.sleep(after_s)
            self.note(fault)
            if fault == "driver":
                return "killed"
            if fault == "power":
                return "dark"
            if fault == "trainer":
                self.trainer.kill()
            elif fault == "stop":
                await self.call(lambda c: c.stop())
                return "stopped"
            elif fault == "coordinator":
                self.kill_coordinator()
                await asyncio.sleep(0.5 + 5 * self.dice.random())
                self.start_coordinator()
            elif self.engines:
                engine = self.dice.choice(self.engines)
                if fault == "engine":
                    engine.kill()
                elif fault == "mute":
                    now = asyncio.get_running_loop().time()
                    engine.line.mute_until = now + 10 + 140 * self.dice.random()
        return ""


async def _lost(coordinator):
    return coordinator.lost_engines()


def _lost_engines(coordinator):
    return _lost(coordinator)


async def live_through(world):
    """The whole stage, through as many drivers as it takes."""
    asyncio.get_running_loop().set_task_factory(Process.factory)
    faults = list(world.plan.faults)
    while (outcome := await world.drive(faults)) != "done":
        world.note(f"driver: {outcome}")
        await asyncio.sleep(5.0)
