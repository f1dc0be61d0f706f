"""The machine on literal histories. B groups per step, d steps ahead, bound eta, K samples."""

import pytest

from posttrain.loop.admission import AdmissionRule
from posttrain.loop.machine import Assignment, Machine, MachineState


def make(size, ahead, bound, *, steps=10, samples=1, engines=(("a", 100),), version=0, **options):
    machine = Machine(AdmissionRule(size, ahead, bound), steps, samples, **options)
    for name, capacity in engines:
        machine.join(name, capacity)
        machine.acknowledge(name, version)
    return machine


def places(assignments):
    return [(each.engine, each.draw, each.samples) for each in assignments]


def accept(machine, *draws, start=0):
    """Groups of one sample finish and are scored."""
    for draw in draws:
        assert machine.sample_finished(draw, 0, start) == "complete"
        assert machine.group_scored(draw, True) == [(draw, "accepted")]


# -- admission --------------------------------------------------------------------------------


def test_admission_follows_the_lowest_version_that_a_live_engine_has_acknowledged():
    machine = make(2, 1, 1, engines=[("a", 100), ("b", 100)])
    assert len(machine.assign()) == 4  # (1 + 0 + 1) * 2
    machine.acknowledge("a", 3)
    assert machine.lowest_acknowledged == 0
    assert machine.assign() == []
    machine.acknowledge("b", 1)
    assert len(machine.assign()) == 2  # (1 + 1 + 1) * 2 - 4
    assert machine.lose("b") == (1, 3, 5)
    assert machine.lowest_acknowledged == 3
    # b's three samples go to a; then (1 + 3 + 1) * 2 - 6 new ones.
    assert [each.is_new for each in machine.assign()] == [False] * 3 + [True] * 4


def test_an_engine_that_has_acknowledged_nothing_gets_no_work_and_holds_nobody_up():
    machine = Machine(AdmissionRule(1, 0, 0), 5, 1)
    machine.join("a", 4)
    assert machine.assign() == [] and machine.lowest_acknowledged is None
    machine.acknowledge("a", 2)
    machine.join("b", 4)
    assert machine.lowest_acknowledged == 2
    assert places(machine.assign()) == [("a", 0, (0,)), ("a", 1, (0,)), ("a", 2, (0,))]


def test_admission_ends_with_the_stage():
    machine = make(2, 5, 5, steps=3)
    assert len(machine.assign()) == 6  # not (5 + 0 + 1) * 2 = 12
    accept(machine, 0, 1, 2)
    assert machine.group_dropped(3)
    assert places(machine.assign()) == [("a", 6, (0,))]  # in the place of 3
    accept(machine, 4, 5, 6)
    assert machine.assign() == []
    assert (machine.num_accepted, machine.num_dropped) == (6, 1)
    assert [machine.take_batch(step) for step in range(3)] == [(0, 1), (2, 4), (5, 6)]
    assert machine.state().next_draw == 7


# -- engines ----------------------------------------------------------------------------------


def test_the_engine_with_the_most_free_places_comes_first():
    machine = make(8, 0, 0, samples=2, engines=[("a", 4), ("b", 7)])
    # Free: a 4, b 7 -> 5 -> 3, then a 4 -> 2, b 3 -> 1, a 2 -> 0, then b has one place left.
    assert places(machine.assign()) == [
        ("b", 0, (0, 1)),
        ("b", 1, (0, 1)),
        ("a", 2, (0, 1)),
        ("b", 3, (0, 1)),
        ("a", 4, (0, 1)),
        ("b", 5, (0,)),
    ]
    assert (machine.load("a"), machine.load("b"), machine.num_running) == (4, 7, 6)
    assert machine.assign() == []
    machine.sample_finished(2, 1, 0)
    # The second sample of draw 5 is first in line; it is not new.
    assert machine.assign() == [Assignment("a", 5, (1,), False, 0)]


def test_a_group_larger_than_every_engine_is_begun_all_the_same():
    machine = make(1, 0, 0, steps=1, samples=5, engines=[("a", 1), ("b", 2)])
    assert places(machine.assign()) == [("b", 0, (0, 1)), ("a", 0, (2,))]
    machine.sample_finished(0, 1, 0)
    assert places(machine.assign()) == [("b", 0, (3,))]
    machine.sample_finished(0, 3, 0)
    assert places(machine.assign()) == [("b", 0, (4,))]
    assert [machine.sample_finished(0, s, 0) for s in (0, 2, 4)] == ["open", "open", "complete"]


def test_a_spread_group_starts_at_the_lowest_version_of_its_engines():
    machine = make(1, 0, 3, samples=3, engines=[("a", 1), ("b", 2)], version=4)
    machine.acknowledge("b", 5)
    assert machine.assign() == [
        Assignment("b", 0, (0, 1), True, 4),
        Assignment("a", 0, (2,), False, 4),
    ]
    machine.sample_finished(0, 0, 6)
    machine.sample_finished(0, 1, 5)
    assert machine.start_version(0) == 4
    assert machine.sample_finished(0, 2, 7) == "complete"  # it began later than was thought
    assert machine.start_version(0) == 5
    with pytest.raises(ValueError, match="sample 0 of draw 1 began under version 3"):
        machine.assign()
        machine.sample_finished(1, 0, 3)


def test_samples_of_a_lost_engine_wait_for_one_that_has_acknowledged_as_much():
    machine = make(1, 1, 1, samples=2, engines=[("a", 2)], version=3)
    machine.join("b", 2)
    machine.acknowledge("b", 2)
    machine.assign()  # draw 0 on a or b, both whole
    assert (machine.load("a"), machine.load("b"), machine.num_running) == (2, 2, 2)
    machine.sample_finished(0, 0, 3)
    assert machine.lose("a") == (0,)
    machine.lose("b")
    assert machine.assign() == [] and machine.num_running == 2  # no place is given back
    machine.join("c", 9)
    machine.acknowledge("c", 2)
    assert places(machine.assign())[0] == ("c", 1, (0, 1))  # draw 0 began under 3
    machine.acknowledge("c", 3)
    assert places(machine.assign())[0] == ("c", 0, (1,))


def test_an_engine_never_falls_back_to_an_older_version():
    machine = make(1, 0, 0, version=5)
    machine.acknowledge("a", 3)  # the trainer was restarted and publishes 3 again
    assert machine.lowest_acknowledged == 5
    machine.lose("a")
    machine.join("a", 1)
    machine.acknowledge("a", 3)
    assert machine.lowest_acknowledged == 3


def test_a_failed_sample_is_tried_once_on_another_engine():
    machine = make(1, 1, 1, samples=2, engines=[("a", 9), ("b", 9)])
    assert places(machine.assign()) == [("a", 0, (0, 1)), ("b", 1, (0, 1))]
    assert machine.sample_failed(0, 1, "a") == "again"
    assert machine.sample_failed(0, 1, "a") == "duplicate"  # the report came twice
    assert places(machine.assign()) == [("b", 0, (1,))]  # although a has more room
    assert machine.sample_failed(0, 1, "a") == "duplicate"
    assert machine.sample_failed(0, 1) == "dropped"
    assert (machine.load("a"), machine.load("b")) == (0, 2)  # its other sample is not wanted
    assert places(machine.assign()) == [("a", 2, (0, 1))]  # in the place of draw 0
    machine.lose("b")
    assert machine.sample_failed(2, 0) == "dropped"  # there is no other engine


def test_the_second_engine_of_a_failed_sample_may_be_lost():
    machine = make(1, 0, 0, engines=[("a", 9), ("b", 9)])
    machine.assign()
    assert machine.sample_failed(0, 0) == "again"
    assert places(machine.assign()) == [("b", 0, (0,))]
    machine.lose("b")
    assert places(machine.assign()) == [("a", 0, (0,))]  # better there than nowhere


def test_an_engine_given_up_may_still_tell_what_it_finished():
    machine = make(1, 0, 0, samples=2, engines=[("a", 2), ("b", 2)])
    assert places(machine.assign()) == [("a", 0, (0, 1))]
    machine.lose("a")
    assert machine.sample_finished(0, 0, 0) == "open"  # it waited
    assert places(machine.assign()) == [("b", 0, (1,))]
    assert machine.sample_finished(0, 1, 0) == "complete"  # told by a, while b runs it
    assert machine.load("b") == 0
    assert machine.sample_finished(0, 1, 0) == "duplicate"  # told by b


# -- what is trained --------------------------------------------------------------------------


def test_the_history_in_which_taking_what_is_due_now_dies():
    # eta 2, B 1: a, b, c start at 0; a is trained; d, started at 1, finishes first. Training d now
    # would leave b and c both due in the step from 2 to 3.
    machine = make(1, 2, 2)
    a, b, c = (each.draw for each in machine.assign())
    accept(machine, a)
    assert machine.take_batch(0) == (a,)
    machine.acknowledge("a", 1)
    (d,) = (each.draw for each in machine.assign())
    accept(machine, d, start=1)
    assert machine.take_batch(1) is None
    assert machine.why_waiting(1) == (b, c)
    accept(machine, c)
    assert machine.why_waiting(1) == ()
    assert machine.take_batch(1) == (c,)
    assert machine.why_waiting(2) == (b,)  # due now; d may be trained in the step after
    assert machine.take_batch(2) is None
    accept(machine, b)
    assert [machine.take_batch(step) for step in (2, 3)] == [(b,), (d,)]


def test_a_batch_is_the_oldest_start_versions_then_who_finished_first():
    machine = make(2, 2, 2)
    assert len(machine.assign()) == 6
    accept(machine, 4, 1)
    assert machine.take_batch(0) == (1, 4)
    machine.acknowledge("a", 1)
    assert [each.draw for each in machine.assign()] == [6, 7]
    accept(machine, 6, start=1)
    accept(machine, 5, 0, 3, 2)
    assert machine.take_batch(1) == (0, 5)
    assert machine.take_batch(2) == (2, 3)
    assert machine.take_batch(3) is None


def test_batches_are_served_again_until_they_are_committed():
    machine = make(1, 2, 2)
    machine.assign()
    accept(machine, 2, 0, 1)
    assert [machine.take_batch(step) for step in (0, 1, 0, 1)] == [(2,), (0,), (2,), (0,)]
    machine.committed(1)
    assert machine.take_batch(1) == (0,)
    for step in (0, 3):
        with pytest.raises(ValueError, match=f"step {step} cannot be served: next is 2 of 10"):
            machine.take_batch(step)
    assert machine.take_batch(2) == (1,)


def test_groups_without_signal_are_replaced_at_once_and_only_so_many_a_step():
    machine = make(2, 1, 1, filter_no_signal=True, max_refill_batches=1)
    assert len(machine.assign()) == 4
    told = []
    for draw in (3, 1, 0):
        machine.sample_finished(draw, 0, 0)
        told += machine.group_scored(draw, has_signal=False)
    # At most 1 * 2 a step: the third is trained as it is.
    assert told == [(3, "filtered"), (1, "filtered"), (0, "accepted")]
    assert (machine.num_filtered, machine.num_accepted, machine.num_running) == (2, 1, 1)
    assert [each.draw for each in machine.assign()] == [4, 5]
    accept(machine, 4)
    assert machine.take_batch(0) == (0, 4)
    machine.sample_finished(2, 0, 0)
    assert machine.group_scored(2, has_signal=False) == [(2, "filtered")]  # another step


def test_without_staleness_groups_are_filtered_in_draw_order():
    machine = make(2, 0, 0, filter_no_signal=True, max_refill_batches=1)
    assert len(machine.assign()) == 2

    def score(draw, has_signal):
        machine.sample_finished(draw, 0, 0)
        return machine.group_scored(draw, has_signal)

    assert score(1, False) == []  # 0 is not decided yet
    assert machine.assign() == []
    assert score(0, False) == [(0, "filtered"), (1, "filtered")]
    assert [each.draw for each in machine.assign()] == [2, 3]
    assert score(3, False) == []
    assert machine.group_dropped(2)
    assert machine.decisions() == [(3, "accepted")]  # two were filtered in this step already
    assert machine.decisions() == []
    assert [each.draw for each in machine.assign()] == [4]
    assert score(4, True) == [(4, "accepted")]
    assert machine.take_batch(0) == (3, 4)


def test_what_is_over_stays_over():
    machine = make(1, 0, 0)
    machine.assign()
    assert machine.group_dropped(0)
    assert not machine.group_dropped(0)
    assert machine.sample_finished(0, 0, 0) == "duplicate"
    assert machine.sample_failed(0, 0) == "duplicate"
    assert machine.group_scored(0, True) == []
    assert not machine.hold("a", 0, 0)
    assert machine.num_dropped == 1


# -- restarts ---------------------------------------------------------------------------------


def test_a_restored_machine_goes_on_where_the_old_one_was():
    machine = make(2, 1, 1, samples=2)
    machine.assign()
    for draw in (3, 0, 1):
        assert [machine.sample_finished(draw, s, 0) for s in (1, 0)] == ["open", "complete"]
        machine.group_scored(draw, True)
    assert machine.take_batch(0) == (0, 3)
    machine.acknowledge("a", 1)
    assert [each.draw for each in machine.assign()] == [4, 5]
    state = machine.state()
    assert state == MachineState(
        next_draw=6,
        num_accepted=3,
        next_step=1,
        unfinished=((2, 0), (4, 1), (5, 1)),
        buffered=((1, 0),),
        served={0: (0, 3)},
    )
    restored = Machine(AdmissionRule(2, 1, 1), 10, 2, state=state)
    assert restored.state() == state
    assert restored.take_batch(0) == (0, 3)
    assert restored.why_waiting(1) == (2, 4, 5)
    restored.join("b", 100)
    restored.acknowledge("b", 0)  # nothing new: (1 + 0 + 1) * 2 < 3 accepted + 3 running
    assert places(restored.assign()) == [("b", 2, (0, 1))]
    restored.acknowledge("b", 1)  # (1 + 1 + 1) * 2 = 6: still nothing new
    assert places(restored.assign()) == [("b", 4, (0, 1)), ("b", 5, (0, 1))]


def test_engines_say_what_they_still_run_after_a_restart():
    state = MachineState(next_draw=2, unfinished=((0, 3), (1, 3)))
    machine = Machine(AdmissionRule(1, 1, 4), 10, 2, state=state)
    machine.join("a", 2)
    machine.acknowledge("a", 5)
    assert [machine.hold("a", 0, 0), machine.hold("a", 1, 1), machine.hold("a", 1, 1)] == [True] * 3
    machine.join("b", 3)
    assert not machine.hold("b", 0, 0)
    assert machine.load("a") == 2
    assert machine.assign() == []  # a is full, b has acknowledged nothing
    machine.acknowledge("b", 3)
    assert places(machine.assign())[:2] == [("b", 0, (1,)), ("b", 1, (0,))]
    assert machine.sample_finished(0, 0, 3) == "open"
    assert machine.start_version(0) == 3


def test_a_state_that_does_not_add_up_is_refused():
    with pytest.raises(ValueError, match="counts 3 accepted groups, but 1 served steps and 0"):
        Machine(AdmissionRule(2, 0, 0), 5, 1, state=MachineState(num_accepted=3, next_step=1))


# -- illegal calls ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: m.join("a", 1), "engine a has joined already"),
        (lambda m: m.join("b", 0), "engine b joins with room for 0 sequences"),
        (lambda m: m.lose("b"), "engine b has not joined"),
        (lambda m: m.acknowledge("b", 1), "engine b has not joined"),
        (lambda m: m.load("b"), "engine b has not joined"),
        (lambda m: m.sample_finished(9, 0, 0), "draw 9 was never assigned"),
        (lambda m: m.sample_finished(0, 1, 0), "draw 0 has no sample 1 of 1"),
        (lambda m: m.sample_failed(0, -1), "draw 0 has no sample -1 of 1"),
        (lambda m: m.group_scored(0, True), "draw 0 is scored with 1 samples unfinished"),
        (lambda m: m.group_dropped(9), "draw 9 was never assigned"),
        (lambda m: m.take_batch(10), "step 10 cannot be served"),
        (lambda m: m.why_waiting(1), "step 1 cannot be served"),
    ],
)
def test_illegal_calls_name_the_draw_or_the_engine(call, says):
    machine = make(1, 0, 0)
    machine.assign()
    with pytest.raises(ValueError, match=says):
        call(machine)


# -- whole groups -------------------------------------------------------------------------------


def test_a_whole_group_waits_for_an_engine_with_room_for_all_of_it():
    machine = make(4, 0, 0, samples=3, engines=[("a", 4), ("b", 2)], whole_groups=True)
    assert places(machine.assign()) == [("a", 0, (0, 1, 2))]
    # a has one place, b two: three samples would begin on two engines
    assert machine.assign() == []
    assert machine.sample_finished(0, 1, 0) == "open"
    assert machine.assign() == []
    assert machine.sample_finished(0, 0, 0) == "open"
    assert places(machine.assign()) == [("a", 1, (0, 1, 2))]


def test_a_group_that_no_engine_could_ever_hold_is_spread_all_the_same():
    machine = make(1, 0, 0, samples=5, engines=[("a", 3), ("b", 2)], whole_groups=True)
    assert places(machine.assign()) == [("a", 0, (0, 1, 2)), ("b", 0, (3, 4))]
