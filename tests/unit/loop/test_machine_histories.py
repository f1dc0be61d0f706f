"""The machine in random histories: several engines, late acknowledgements, losses, restarts.

`World` is what surrounds the machine (engines, rewards, a trainer with commits) and what must be
true of it; hypothesis decides what happens next. Engines swap weights before they acknowledge them,
an engine given up may still answer, every process may be restarted at any time. When a history
ends, everything that runs finishes and the trainer goes on: then all steps must get done.
"""

import itertools
from collections import Counter
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from look_ahead import FinishedGroup, choose_batch

from posttrain.loop.admission import AdmissionRule
from posttrain.loop.machine import Machine


@dataclass
class Engine:
    capacity: int
    version: int | None = None  # of the weights it has
    acknowledged: int | None = None  # what the machine knows of
    is_known: bool = True  # False: given up by the machine, but its process still runs
    running: dict[tuple[int, int], int] = field(default_factory=dict)  # (draw, sample): start


class World:
    def __init__(self, rule, num_steps, samples, filters, max_refill_batches=1):
        self.rule, self.num_steps, self.samples = rule, num_steps, samples
        self.options = {"filter_no_signal": filters, "max_refill_batches": max_refill_batches}
        self.machine = Machine(rule, num_steps, samples, **self.options)
        self.engines: dict[str, Engine] = {}
        self.names = itertools.count()
        self.begun: dict[tuple[int, int], int] = {}  # journals: (draw, sample): start version
        self.finished: dict[int, dict[int, int]] = {}  # draw: sample: start version, as reported
        self.signals: dict[int, bool] = {}  # scored, not decided
        self.failed: set[tuple[int, int]] = set()  # samples that an engine gave back
        self.num_refilled: Counter[int] = Counter()  # step: filtered while it was next
        self.fate: dict[int, str] = {}  # draw: accepted, dropped, filtered
        self.starts: dict[int, int] = {}  # accepted draw: true start version
        self.trained: dict[int, tuple[int, ...]] = {}  # step: draws
        self.step = 0  # of the trainer
        self.published = 0
        self.committed = 0

    # -- engines --------------------------------------------------------------------------------

    def live(self):
        return [name for name, engine in self.engines.items() if engine.is_known]

    def join(self, capacity):
        name = f"engine-{next(self.names)}"
        self.engines[name] = Engine(capacity)
        self.machine.join(name, capacity)

    def swap(self, name):
        engine = self.engines[name]
        engine.version = max(engine.version or 0, self.published)

    def acknowledge(self, name):
        engine = self.engines[name]
        if engine.version is None:
            engine.version = self.published
        engine.acknowledged = engine.version
        self.machine.acknowledge(name, engine.version)
        self.assign()

    def acknowledge_older(self, name):
        """A restarted trainer publishes again; the engine keeps what it has, the machine too."""
        version = self.engines[name].acknowledged
        if version:
            self.machine.acknowledge(name, version - 1)
        self.assign()

    def lose(self, name, is_dead):
        engine = self.engines[name]
        draws = {draw for draw, _ in engine.running}
        assert self.machine.lose(name) == tuple(sorted(draws))
        engine.is_known, engine.acknowledged = False, None
        if is_dead:
            del self.engines[name]
        self.assign()

    def come_back(self, name):
        """An engine that was given up calls again, and says what it runs."""
        engine = self.engines[name]
        self.machine.join(name, engine.capacity)
        engine.is_known = True
        if engine.version is not None:
            engine.acknowledged = engine.version
            self.machine.acknowledge(name, engine.version)
        for draw, sample in sorted(engine.running):
            if not self.machine.hold(name, draw, sample):
                del engine.running[draw, sample]
        self.assign()

    # -- work -----------------------------------------------------------------------------------

    def assign(self):
        before = self.machine.num_accepted + self.machine.num_running
        known = {draw for draw, _ in self.machine.state().unfinished}
        for piece in self.machine.assign():
            engine = self.engines[piece.engine]
            assert engine.is_known and engine.acknowledged is not None
            assert engine.acknowledged >= self.machine.start_version(piece.draw)
            assert self.machine.start_version(piece.draw) == piece.start_version
            assert piece.is_new == (piece.draw not in known)
            known.add(piece.draw)
            for sample in piece.samples:
                key = (piece.draw, sample)
                assert not any(key in e.running for e in self.engines.values() if e.is_known)
                engine.running[key] = self.begun.setdefault(key, engine.version)
            assert len(engine.running) <= engine.capacity
        now = self.machine.num_accepted + self.machine.num_running
        assert now <= max(before, self.limit())
        self.check_nothing_could_start(now)
        self.check_counts()

    def limit(self):
        lowest = min(
            (e.acknowledged for e in self.engines.values() if e.acknowledged is not None),
            default=None,
        )
        assert self.machine.lowest_acknowledged == lowest
        if lowest is None:
            return 0
        total = self.num_steps * self.rule.groups_per_step
        return min(total, (self.rule.steps_ahead + lowest + 1) * self.rule.groups_per_step)

    def check_nothing_could_start(self, now):
        free = [
            (engine.acknowledged, name)
            for name, engine in self.engines.items()
            if engine.acknowledged is not None and len(engine.running) < engine.capacity
        ]
        assert not free or now >= self.limit()
        placed = {key for name in self.live() for key in self.engines[name].running}
        for draw, start in self.machine.state().unfinished:
            for sample in range(self.samples):
                if sample in self.finished.get(draw, {}) or (draw, sample) in placed:
                    continue
                able = [name for version, name in free if version >= start]
                assert len(able) <= 1, f"draw {draw} sample {sample} waits"  # 1: that failed on it

    def running(self):
        return sorted({key for engine in self.engines.values() for key in engine.running})

    def finish(self, draw, sample):
        start = min(
            e.running[draw, sample] for e in self.engines.values() if (draw, sample) in e.running
        )
        self.tell_finished(draw, sample, start)
        self.assign()

    def complete(self, draw, has_signal=True):
        """All of a group that runs now is finished, and scored if nothing is missing."""
        for key in self.running():
            if key[0] == draw and key in self.running():
                self.finish(*key)
        if draw in self.scorable():
            self.score(draw, has_signal)

    def tell_finished(self, draw, sample, start):
        told = self.machine.sample_finished(draw, sample, start)
        group = self.finished.get(draw, {})
        if draw in self.fate or sample in group:
            assert told == "duplicate"
        else:
            group = self.finished.setdefault(draw, {})
            group[sample] = start
            assert told == ("complete" if len(group) == self.samples else "open")
            if told == "complete":
                assert self.machine.start_version(draw) == min(group.values())
        self.forget((draw, sample))

    def forget(self, key):
        for engine in self.engines.values():
            engine.running.pop(key, None)

    def fail(self, name, draw, sample):
        has_elsewhere = sum(e.acknowledged is not None for e in self.engines.values()) > 1
        is_first = (draw, sample) not in self.failed
        told = self.machine.sample_failed(draw, sample, name)
        assert told == ("again" if is_first and has_elsewhere else "dropped")
        self.failed.add((draw, sample))
        self.engines[name].running.pop((draw, sample))
        if told == "dropped":
            self.is_dropped(draw)
        assert self.machine.sample_failed(draw, sample, name) == "duplicate"
        self.assign()

    def scorable(self):
        return [
            draw
            for draw, group in self.finished.items()
            if len(group) == self.samples and draw not in self.fate and draw not in self.signals
        ]

    def score(self, draw, has_signal):
        self.signals[draw] = has_signal
        self.settle(self.machine.group_scored(draw, has_signal))
        self.assign()

    def settle(self, decisions):
        for draw, verdict in decisions:
            assert draw not in self.fate
            self.fate[draw] = verdict
            has_signal = self.signals.pop(draw)
            step, most = self.machine.next_step, self.options["max_refill_batches"]
            is_full = self.num_refilled[step] == most * self.rule.groups_per_step
            filters = self.options["filter_no_signal"] and not has_signal and not is_full
            assert verdict == ("filtered" if filters else "accepted")
            self.num_refilled[step] += verdict == "filtered"
            self.starts[draw] = min(self.finished[draw].values())

    def drop(self, draw):
        assert self.machine.group_dropped(draw)
        self.is_dropped(draw)
        self.assign()

    def is_dropped(self, draw):
        assert draw not in self.fate
        self.fate[draw] = "dropped"
        self.signals.pop(draw, None)
        for sample in range(self.samples):
            self.forget((draw, sample))
        self.settle(self.machine.decisions())

    # -- the trainer ----------------------------------------------------------------------------

    def train(self):
        if self.step == self.num_steps:
            return False
        is_again = self.step in self.trained
        expected = None if is_again else self.expected_batch()
        waits_for = self.machine.why_waiting(self.step)
        draws = self.machine.take_batch(self.step)
        if is_again:
            assert draws == self.trained[self.step]
        else:
            assert draws == expected
            if draws is None:
                assert all(draw not in self.fate for draw in waits_for)
                return False
            assert not waits_for
            self.trained[self.step] = draws
        for draw in draws:
            assert self.step - self.starts[draw] <= self.rule.max_staleness
        self.step += 1
        return True

    def advance(self, laggard=None):
        """A step, if there can be one, and every engine (but one, perhaps) has its weights."""
        self.train()
        self.published = max(self.published, self.step)
        for name in self.live():
            if name == laggard:
                continue
            self.swap(name)
            self.acknowledge(name)

    def expected_batch(self):
        state = self.machine.state()
        waiting = [FinishedGroup(str(d), s, order) for order, (d, s) in enumerate(state.buffered)]
        batch = choose_batch(self.rule, self.step, waiting, [s for _, s in state.unfinished])
        return batch and tuple(sorted(int(group.group_id) for group in batch))

    def commit(self):
        self.committed = self.step
        self.machine.committed(self.step)

    def restart_trainer(self):
        self.step = self.published = self.committed

    def restart_coordinator(self):
        """The ledger has everything that was decided; what was finished lies in the journals."""
        before = self.machine
        self.machine = Machine(
            self.rule, self.num_steps, self.samples, **self.options, state=before.state()
        )
        assert self.machine.state() == before.state()
        finished, signals = self.finished, self.signals
        self.finished = {draw: group for draw, group in finished.items() if draw in self.fate}
        self.signals, self.failed = {}, set()
        for draw in sorted(signals):  # the ledger has scores
            for sample, start in finished[draw].items():
                self.tell_finished(draw, sample, start)
            self.signals[draw] = signals[draw]
            self.settle(self.machine.group_scored(draw, signals[draw]))
        for engine in self.engines.values():
            engine.is_known, engine.acknowledged = False, None
        self.check_counts()

    def restart_driver(self):
        self.engines.clear()
        self.restart_coordinator()
        self.restart_trainer()

    # -- what must hold -------------------------------------------------------------------------

    def check_counts(self):
        machine, state = self.machine, self.machine.state()
        fates = list(self.fate.values())
        assert machine.num_accepted == fates.count("accepted")
        assert machine.num_dropped == fates.count("dropped")
        assert machine.num_filtered == fates.count("filtered")
        assert state.next_draw == len(fates) + machine.num_running
        assert {draw for draw, _ in state.unfinished} == set(range(state.next_draw)) - set(
            self.fate
        )
        for name in self.live():
            assert machine.load(name) == len(self.engines[name].running)
        size, bound = self.rule.groups_per_step, self.rule.max_staleness
        untrained = [start for _, start in state.unfinished + state.buffered]
        for later in range(bound):
            limit = machine.next_step + later - bound
            assert sum(start <= limit for start in untrained) - later * size <= size

    def everything_goes_on(self):
        """From any state: once all that runs finishes and engines keep up, every step is done."""
        for name in list(self.engines):
            if not self.engines[name].is_known:
                self.come_back(name)
        if not self.live():
            self.join(2)
        for _ in range(4 * self.num_steps * (self.samples + 2) + 40):
            self.advance()
            while self.running():
                for key in self.running():
                    self.finish(*key)
            for draw in self.scorable():
                self.score(draw, has_signal=True)
            while self.train():
                pass
        assert self.step == self.num_steps, f"stuck: {self.machine.why_waiting(self.step)}"
        trained = [draw for draws in self.trained.values() for draw in draws]
        assert len(trained) == len(set(trained)) == self.num_steps * self.rule.groups_per_step
        assert set(trained) == {draw for draw, fate in self.fate.items() if fate == "accepted"}
        assert sorted(self.fate) == list(range(self.machine.state().next_draw))
        assert not self.machine.state().unfinished and not self.machine.state().buffered


PROGRESS = (
    *("overtake",) * 5, *("advance",) * 3, *("complete",) * 2, *("finish",) * 2, "score",
    *("train",) * 2, "publish", "keep_up", "swap", "acknowledge",
)  # fmt: skip
TROUBLE = (
    "join", "lose", "come_back", "fail", "drop", "repeat", "no_signal", "old_version", "commit",
    "restart_trainer", "restart_coordinator", "restart_driver",
)  # fmt: skip


def happen(world, event, pick):
    """One event of a history. `pick(sequence)` chooses; nothing happens where nothing can."""
    live, running = world.live(), world.running()
    away = [name for name in world.engines if name not in live]
    if event == "finish" and running:
        world.finish(*pick(running))
    elif event == "complete" and running:
        world.complete(pick(running)[0])
    elif event == "overtake" and running:  # stragglers: what begins last finishes first
        world.complete(running[-1][0])
    elif event == "advance":
        world.advance(laggard=pick([None, *live]))
    elif event == "no_signal" and running:
        world.complete(pick(running)[0], has_signal=False)
    elif event == "score" and (draws := world.scorable()):
        world.score(pick(draws), pick([True, False]))
    elif event == "publish":
        world.published = max(world.published, world.step)
    elif event == "keep_up" and live:
        name = pick(live)
        world.swap(name)
        world.acknowledge(name)
    elif event == "join" and len(live) < 4:
        world.join(pick([1, 2, 3, 5]))
    elif event in ("swap", "acknowledge") and live:
        getattr(world, event)(pick(live))
    elif event == "old_version" and live:
        world.acknowledge_older(pick(live))
    elif event == "lose" and live:
        world.lose(pick(live), pick([True, False]))
    elif event == "come_back" and away:
        world.come_back(pick(away))
    elif event == "fail" and (
        places := [(n, *key) for n in live for key in world.engines[n].running]
    ):
        world.fail(*pick(places))
    elif event == "drop" and (draws := [draw for draw, _ in world.machine.state().unfinished]):
        world.drop(pick(draws))
    elif event == "repeat" and world.finished:
        draw = pick(sorted(world.finished))
        sample = pick(sorted(world.finished[draw]))
        world.tell_finished(draw, sample, world.finished[draw][sample])
    elif event in ("train", "commit", "restart_trainer", "restart_coordinator", "restart_driver"):
        getattr(world, event)()


class Histories(RuleBasedStateMachine):
    @initialize(
        size=st.integers(1, 3),
        ahead=st.integers(0, 3),
        slack=st.integers(0, 3),
        num_steps=st.integers(1, 12),
        samples=st.integers(1, 3),
        filters=st.booleans(),
        capacities=st.lists(st.integers(1, 6), min_size=1, max_size=3),
        trouble=st.lists(st.sampled_from(TROUBLE), max_size=5),
    )
    def start(self, size, ahead, slack, num_steps, samples, filters, capacities, trouble):
        self.events = PROGRESS + tuple(trouble)  # few kinds of trouble at once: more gets done
        bound = AdmissionRule(size, ahead, ahead + slack)
        self.world = World(bound, num_steps, samples, filters)
        for capacity in capacities:
            self.world.join(capacity)
            self.world.acknowledge(self.world.live()[-1])

    @rule(data=st.data())
    def happen(self, data):
        def pick(choices):
            return data.draw(st.sampled_from(choices))

        happen(self.world, pick(self.events), pick)

    def teardown(self):
        if hasattr(self, "world"):
            self.world.everything_goes_on()


Histories.TestCase.settings = settings(max_examples=200, stateful_step_count=50)
TestHistories = Histories.TestCase
