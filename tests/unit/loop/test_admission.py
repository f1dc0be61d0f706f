"""The two rules, on literal numbers and in random histories."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from look_ahead import FinishedGroup, choose_batch

from posttrain.loop.admission import AdmissionRule


def test_room_counts_in_groups():
    rule = AdmissionRule(groups_per_step=4, steps_ahead=2, max_staleness=2)
    assert rule.room(accepted=0, running=0, acknowledged_version=0) == 12  # (2 + 0 + 1) * 4
    assert rule.room(accepted=8, running=3, acknowledged_version=0) == 1
    assert rule.room(accepted=9, running=3, acknowledged_version=0) == 0
    assert rule.room(accepted=9, running=3, acknowledged_version=1) == 4


def test_staleness_zero_is_one_batch_at_a_time():
    rule = AdmissionRule(4, 0, 0)
    assert [rule.room(0, 0, v) for v in (0, 1)] == [4, 8]


@pytest.mark.parametrize("numbers", [(0, 0, 0), (4, 2, 1), (4, -1, 1)])
def test_impossible_rules_are_refused(numbers):
    with pytest.raises(ValueError, match="steps_ahead"):
        AdmissionRule(*numbers)


def test_an_old_group_that_still_runs_is_waited_for():
    # Version 2, bound 1: whatever started at version 1 must be trained now. "b" has not finished.
    rule = AdmissionRule(1, 1, 1)
    finished = [FinishedGroup("c", start_version=2, order=0)]
    assert choose_batch(rule, 2, finished, running_starts=[1]) is None
    assert choose_batch(rule, 2, finished, running_starts=[2]) == finished


def test_later_steps_are_looked_at():
    # Bound 2, one group a step. a, b, c start at 0; a is trained; d (start 1) finishes first.
    # Training d now would leave b and c both due in the next step: the rule waits for one of
    # them.
    rule = AdmissionRule(1, 2, 2)
    d = FinishedGroup("d", start_version=1, order=0)
    assert choose_batch(rule, 1, [d], running_starts=[0, 0]) is None
    b = FinishedGroup("b", start_version=0, order=1)
    assert choose_batch(rule, 1, [d, b], running_starts=[0]) == [b]


def test_oldest_start_first_then_first_finished():
    rule = AdmissionRule(2, 1, 1)
    groups = [FinishedGroup("x", 1, 0), FinishedGroup("y", 0, 2), FinishedGroup("z", 1, 1)]
    assert [g.group_id for g in choose_batch(rule, 1, groups, [])] == ["y", "x"]


class Histories(RuleBasedStateMachine):
    """Groups finish in any order, engines acknowledge late, groups fail: the bound holds, nothing
    dies.
    """

    @initialize(size=st.integers(1, 4), bound=st.integers(0, 4), slack=st.integers(0, 4))
    def begin(self, size, bound, slack):
        self.rule = AdmissionRule(size, max(0, bound - slack), bound)
        self.version = self.acknowledged = self.accepted = self.next_id = self.order = 0
        self.running, self.finished, self.trained = {}, {}, []

    def admit(self):
        for _ in range(self.rule.room(self.accepted, len(self.running), self.acknowledged)):
            self.running[self.next_id] = self.acknowledged
            self.next_id += 1

    @rule(data=st.data())
    def finish(self, data):
        self.admit()
        if self.running:
            group = data.draw(st.sampled_from(sorted(self.running)))
            start = self.running.pop(group)
            self.finished[group] = FinishedGroup(str(group), start, self.order)
            self.order += 1
            self.accepted += 1

    @rule(data=st.data())
    def fail(self, data):
        self.admit()
        if self.running:
            del self.running[data.draw(st.sampled_from(sorted(self.running)))]

    @rule()
    def acknowledge(self):
        self.acknowledged = self.version

    @rule()
    def train(self):
        self.try_to_train()

    def try_to_train(self):
        batch = choose_batch(
            self.rule, self.version, list(self.finished.values()), self.running.values()
        )
        if batch is None:
            return False
        for group in batch:
            assert self.version - group.start_version <= self.rule.max_staleness
            del self.finished[int(group.group_id)]
            self.trained.append(group.group_id)
        self.version += 1
        return True

    @precondition(lambda self: hasattr(self, "rule"))
    @invariant()
    def no_group_is_trained_twice(self):
        assert len(set(self.trained)) == len(self.trained)

    @precondition(lambda self: hasattr(self, "rule"))
    @invariant()
    def every_group_finishing_lets_a_step_begin(self):
        """No deadlock: when running groups finish and engines acknowledge, training goes on."""
        if self.acknowledged != self.version:
            return
        finished = list(self.finished.values())
        starts = list(self.running.values())
        starts += [self.acknowledged] * self.rule.room(
            self.accepted, len(self.running), self.acknowledged
        )
        order = self.order
        finished += [FinishedGroup(f"r{i}", s, order + i) for i, s in enumerate(starts)]
        assert choose_batch(self.rule, self.version, finished, []) is not None


Histories.TestCase.settings = settings(max_examples=150, stateful_step_count=60)
TestHistories = Histories.TestCase


@given(
    starts=st.lists(st.integers(0, 3), min_size=1, max_size=8),
    size=st.integers(1, 4),
)
def test_a_batch_is_never_larger_or_smaller_than_a_step(starts, size):
    groups = [FinishedGroup(str(i), s, i) for i, s in enumerate(starts)]
    batch = choose_batch(AdmissionRule(size, 3, 3), 3, groups, [])
    assert batch is None or len(batch) == size
