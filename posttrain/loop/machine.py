"""The coordinator's decisions as a pure state machine: no clock, no processes, ids and versions.

    assign() --> an engine generates --> sample_finished() ... "complete" --> a reward scores
       ^  ^                 |                                                      |
       |  |             lose(), sample_failed(): its samples wait for an engine    |
       |  place given back: group_dropped(), a group filtered <-- group_scored() <-+
       |                                                               |
    acknowledge() <-- publication <-- trainer <-- take_batch() <-- accepted groups

A *draw* is one entry of the prompt stream, its *group* the K samples of it. A group is under way
from its assignment until it is accepted, dropped or filtered. What blocks: no place on an engine
that has acknowledged enough, no place under the admission rule, and for a batch the look-ahead
rule. What unblocks: sample_finished, acknowledge, group_scored, and everything that gives a place
back; call assign() and take_batch() again after them.

The start version of a group is the lowest that an engine of its samples had acknowledged at the
start: estimated when it is assigned, exact when it is complete. It may only rise in between, so
that the estimate is on the safe side.
"""

from __future__ import annotations

from typing import Literal

from posttrain.loop.admission import AdmissionRule
from posttrain.loop.batches import Batches
from posttrain.loop.engine_loads import Engine, EngineLoads
from posttrain.loop.groups import DONE, Group, Groups, Pieces
from posttrain.loop.machine_state import Assignment, MachineState

__all__ = ["Assignment", "Machine", "MachineState", "Verdict"]

Verdict = Literal["accepted", "filtered"]


class Machine:
    """See the module's picture. Not thread-safe. Illegal calls raise ValueError."""

    def __init__(
        self,
        rule: AdmissionRule,
        num_steps: int,
        samples_per_prompt: int,
        *,
        filter_no_signal: bool = False,
        max_refill_batches: int = 4,
        whole_groups: bool = False,
        state: MachineState | None = None,
    ) -> None:
        """num_steps: batches of the stage; samples_per_prompt: K, samples of one group.

        filter_no_signal: groups whose scores teach nothing give their place back, at most
        max_refill_batches * B of them per step. whole_groups: a group begins on one engine that has
        room for all of it, so under one version, where any engine is large enough. state: what
        `state()` gave before a restart; its unfinished draws wait for engines (or for `hold`), and
        what was served is served again.
        """
        if num_steps < 0 or samples_per_prompt < 1 or max_refill_batches < 0:
            raise ValueError(
                "need num_steps >= 0, samples_per_prompt >= 1 and max_refill_batches >= 0, got "
                f"{num_steps}, {samples_per_prompt} and {max_refill_batches}"
            )
        state = state or MachineState()
        self._rule = rule
        self._num_steps = num_steps
        self._num_samples = samples_per_prompt
        self._filters = filter_no_signal
        self._max_refills = max_refill_batches * rule.groups_per_step
        # Parity with the synchronous algorithm: which groups are filtered, and so which draws
        # replace them, may not depend on who finished first.
        self._decides_in_order = filter_no_signal and rule.max_staleness == 0
        self._engines = EngineLoads()
        self._batches = Batches(rule)
        self._groups = Groups(self._engines, samples_per_prompt, whole_groups)
        self._signals: dict[int, bool] = {}  # scored, but an earlier draw is not decided yet
        self._decisions: list[tuple[int, Verdict]] = []  # not told yet
        self._restore(state)

    def _restore(self, state: MachineState) -> None:
        expected = state.next_step * self._rule.groups_per_step + len(state.buffered)
        if state.num_accepted != expected:
            raise ValueError(
                f"the state counts {state.num_accepted} accepted groups, but {state.next_step} "
                f"served steps and {len(state.buffered)} waiting groups make {expected}"
            )
        self._next_draw = state.next_draw
        self._next_step = state.next_step
        self._num_accepted = state.num_accepted
        self._num_dropped = state.num_dropped
        self._num_filtered = state.num_filtered
        self._num_refilled = state.num_refilled
        self._served = dict(state.served)
        for draw, start in state.buffered:
            self._batches.begin(start)
            self._batches.accept(draw, start)
        for draw, start in sorted(state.unfinished):
            self._batches.begin(start)
            self._groups.restore(draw, start)

    def state(self) -> MachineState:
        """What `Machine(..., state=...)` goes on from. O(groups)."""
        return MachineState(
            next_draw=self._next_draw,
            num_accepted=self._num_accepted,
            next_step=self._next_step,
            unfinished=tuple((group.draw, group.start) for group in self._groups),
            buffered=self._batches.accepted(),
            served=dict(self._served),
            num_dropped=self._num_dropped,
            num_filtered=self._num_filtered,
            num_refilled=self._num_refilled,
        )

    # -- engines --------------------------------------------------------------------------------

    def join(self, engine: str, capacity: int) -> None:
        """A live engine that decodes `capacity` sequences together. It gets work, and counts for
        admission, once it has acknowledged a version.
        """
        self._engines.join(engine, capacity)

    def acknowledge(self, engine: str, version: int) -> None:
        """The engine computes with `version` of the weights. An older one than before is ignored:
        a restarted trainer publishes versions again that its engines are past.
        """
        self._engines.acknowledge(engine, version)

    def lose(self, engine: str) -> tuple[int, ...]:
        """The engine is gone: its samples wait for another one. Their groups stay under way.

        Returns the draws of these samples, sorted.
        """
        return self._groups.lost(self._engines.lose(engine))

    def hold(self, engine: str, draw: int, sample: int) -> bool:
        """An engine says that it runs this sample, which the machine took for waiting.

        False: nobody wants it (its draw is over, it is finished, or another engine runs it).
        """
        holder = self._engines.get(engine)
        group = self._group(draw, sample)
        if group is None:
            return False
        return self._groups.hold(holder, group, sample)

    def load(self, engine: str) -> int:
        """Sequences that the engine runs."""
        return self._engines.get(engine).num_running

    # -- work -----------------------------------------------------------------------------------

    def assign(self) -> list[Assignment]:
        """Everything that may start now: waiting samples first (oldest start version first, only on
        engines that have acknowledged it), then new groups while the admission rule has room and an
        engine has a free place. The engine with the most free places comes first. A group stays
        whole where an engine has room for all of it; else it takes the places there are, and its
        other samples are first in line for the next ones.
        """
        assignments: list[Assignment] = []
        if self._groups.has_waiting:
            for group, pieces in self._groups.place_waiting():
                _tell(assignments, group, pieces, is_new=False)
        lowest = self._engines.lowest
        for _ in range(0 if lowest is None else self._room(lowest)):
            begun = self._groups.begin(self._next_draw)
            if begun is None:
                break
            group, pieces = begun
            self._next_draw += 1
            self._batches.begin(group.start)
            _tell(assignments, group, pieces, is_new=True)
        return assignments

    def _room(self, lowest: int) -> int:
        """Groups that may start, as far as the rule and the stage's length go."""
        num_running = len(self._groups)
        left = self._num_steps * self._rule.groups_per_step - self._num_accepted - num_running
        return min(left, self._rule.room(self._num_accepted, num_running, lowest))

    # -- what becomes of samples and groups -----------------------------------------------------

    def sample_finished(
        self, draw: int, sample: int, start_version: int
    ) -> Literal["open", "complete", "duplicate"]:
        """A sample is generated; its engine has a free place. "complete": the group can be scored.

        start_version: what its engine had acknowledged when it began. Known also for samples that
        wait: a lost engine may have finished them. "duplicate": told before, or nobody wants it.
        """
        group = self._group(draw, sample)
        if group is None or group.places[sample] is DONE:
            return "duplicate"
        if start_version < group.start:
            raise ValueError(
                f"sample {sample} of draw {draw} began under version {start_version}, but was "
                f"given to engines that had acknowledged {group.start}"
            )
        self._groups.vacate(group, sample, DONE)
        if group.lowest is None or start_version < group.lowest:
            group.lowest = start_version
        group.num_open -= 1
        if group.num_open:
            return "open"
        if group.lowest != group.start:
            self._batches.end(group.start)
            self._batches.begin(group.lowest)
            group.start = group.lowest
        return "complete"

    def sample_failed(
        self, draw: int, sample: int, engine: str | None = None
    ) -> Literal["again", "dropped", "duplicate"]:
        """An engine gives a sample back. "again": it waits for another engine. "dropped": it failed
        before, or there is no other engine; the whole group is dropped, its place given back.

        engine: who says so. "duplicate": the sample does not run (there), so this was told before.
        """
        group = self._group(draw, sample)
        place = group.places[sample] if group is not None else None
        if group is None or not isinstance(place, Engine) or engine not in (None, place.name):
            return "duplicate"
        avoid = group.avoid = group.avoid or {}
        if sample in avoid or self._engines.num_acknowledged < 2:
            self._drop(group)
            return "dropped"
        self._groups.vacate(group, sample, None)
        avoid[sample] = place.name
        return "again"

    def group_scored(self, draw: int, has_signal: bool) -> list[tuple[int, Verdict]]:
        """A complete group has its scores. Returns the decisions that became final, this draw's and
        others': "accepted" groups wait for a batch, "filtered" ones give their place back.

        Filtered is what has no signal (where asked for), up to max_refill_batches * B groups per
        step. With max_staleness 0 draws are decided in order, so a decision may be none at first.
        """
        group = self._group(draw)
        if group is None:
            return self.decisions()
        if group.num_open:
            raise ValueError(f"draw {draw} is scored with {group.num_open} samples unfinished")
        self._signals[draw] = has_signal
        if self._decides_in_order:
            self._decide_in_order()
        else:
            self._decide(group)
        return self.decisions()

    def group_dropped(self, draw: int) -> bool:
        """The group can never be trained (broken verifier, deadline): its place is given back.

        False: it was over before. Ask `decisions()` afterwards.
        """
        group = self._group(draw)
        if group is None:
            return False
        self._drop(group)
        return True

    def decisions(self) -> list[tuple[int, Verdict]]:
        """Decisions that became final and were not told yet. `group_scored` returns them too; a
        dropped group may let later draws be decided where draws are decided in order.
        """
        decisions, self._decisions = self._decisions, []
        return decisions

    def _decide_in_order(self) -> None:
        while (group := next(iter(self._groups), None)) and group.draw in self._signals:
            self._decide(group)

    def _decide(self, group: Group) -> None:
        has_signal = self._signals.pop(group.draw)
        self._groups.remove(group)
        if self._filters and not has_signal and self._num_refilled < self._max_refills:
            self._num_filtered += 1
            self._num_refilled += 1
            self._batches.end(group.start)
            self._decisions.append((group.draw, "filtered"))
        else:
            self._num_accepted += 1
            self._batches.accept(group.draw, group.start)
            self._decisions.append((group.draw, "accepted"))

    def _drop(self, group: Group) -> None:
        self._groups.remove(group)
        self._signals.pop(group.draw, None)
        self._batches.end(group.start)
        self._num_dropped += 1
        if self._decides_in_order:
            self._decide_in_order()

    def _group(self, draw: int, sample: int = 0) -> Group | None:
        """The group of a draw under way; None where it is over. Raises where it never began."""
        if not 0 <= draw < self._next_draw:
            raise ValueError(f"draw {draw} was never assigned (the next is {self._next_draw})")
        if not 0 <= sample < self._num_samples:
            raise ValueError(f"draw {draw} has no sample {sample} of {self._num_samples}")
        return self._groups.get(draw)

    # -- batches --------------------------------------------------------------------------------

    def take_batch(self, step: int) -> tuple[int, ...] | None:
        """The draws that are trained in `step` (0-based), sorted; the same again until committed.

        None: wait. Raises ValueError for steps that are committed, not due yet, or past the end.
        """
        served = self._served.get(step)
        if served is not None:
            return served
        self._check_next(step)
        draws = self._batches.take(step)
        if draws is not None:
            self._served[step] = draws
            self._next_step += 1
            self._num_refilled = 0
        return draws

    def committed(self, step: int) -> None:
        """`step` batches are in a whole checkpoint: those need not be served again."""
        for served in [served for served in self._served if served < step]:
            del self._served[served]

    def why_waiting(self, step: int) -> tuple[int, ...]:
        """Draws of which one or more must be accepted before `step` can begin, oldest start version
        first. Empty where it can begin, and where it waits for groups that have yet to start.
        """
        if step in self._served:
            return ()
        self._check_next(step)
        limit = self._batches.waits_for(step)
        if limit is None:
            return ()
        awaited = [(group.start, group.draw) for group in self._groups]
        return tuple(draw for start, draw in sorted(awaited) if start <= limit)

    def _check_next(self, step: int) -> None:
        if step != self._next_step or step >= self._num_steps:
            raise ValueError(
                f"step {step} cannot be served: next is {self._next_step} of {self._num_steps}, "
                f"and {len(self._served)} before it are kept"
            )

    # -- numbers --------------------------------------------------------------------------------

    def start_version(self, draw: int) -> int:
        """The start version of a draw under way, exact once it is complete. Raises ValueError."""
        group = self._group(draw)
        if group is None:
            raise ValueError(f"draw {draw} is over")
        return group.start

    @property
    def lowest_acknowledged(self) -> int | None:
        """The lowest version that a live engine has acknowledged; None where there is none."""
        return self._engines.lowest

    @property
    def next_step(self) -> int:
        """The first step that was never served."""
        return self._next_step

    @property
    def num_running(self) -> int:
        """Groups under way: running, waiting for an engine, being scored."""
        return len(self._groups)

    @property
    def num_buffered(self) -> int:
        """Groups that are accepted and wait for a batch."""
        return self._batches.num_accepted

    @property
    def num_accepted(self) -> int:
        """Groups ever accepted, trained ones included."""
        return self._num_accepted

    @property
    def num_dropped(self) -> int:
        return self._num_dropped

    @property
    def num_filtered(self) -> int:
        return self._num_filtered


def _tell(assignments: list[Assignment], group: Group, pieces: Pieces, is_new: bool) -> None:
    for engine, samples in pieces:
        assignments.append(Assignment(engine.name, group.draw, samples, is_new, group.start))
        is_new = False  # one line of a ledger per draw that begins
