"""Whole stages on a virtual clock, with everything that may go wrong, chosen by a seed."""

import json
import os
import random
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
from engine_world import Plan, World, live_through
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from virtual_clock import run_virtually

from posttrain.loop.admission import AdmissionRule
from posttrain.loop.ledger import Ledger

LIMIT_S = 6 * 3600.0  # of virtual time; a history takes minutes


def plan_of(seed):
    dice = random.Random(f"plan {seed}")
    staleness = dice.choice([0, 0, 1, 1, 2, 3])
    draws = range(40)

    def some(share, chance):
        share = share if dice.random() < chance else 0.0
        return frozenset(draw for draw in draws if dice.random() < share)

    kinds = ["engine", "engine", "mute", "trainer", "coordinator", "driver", "stop"]
    faults = [
        (dice.expovariate(1 / 30), dice.choice(kinds)) for _ in range(dice.choice([0, 1, 2, 4, 8]))
    ]
    return Plan(
        seed=seed,
        rule=AdmissionRule(dice.choice([1, 2, 4]), dice.randint(0, staleness), staleness),
        num_steps=dice.choice([3, 6, 9]),
        samples=dice.choice([1, 2, 4]),
        engines=dice.choice([1, 2, 3]),
        capacity=dice.choice([1, 3, 8, 64]),
        filters=dice.random() < 0.3,
        commit_every=dice.choice([1, 2, 3, 5]),
        probe_every=dice.choice([1, 3]),
        heldout_every=dice.choice([0, 0, 1, 3]),
        sample_s=dice.choice([0.1, 3.0, 10.0]),
        update_s=dice.choice([0.01, 0.5, 8.0]),
        step_s=dice.choice([0.1, 5.0, 20.0]),
        broken=some(0.1, 0.3),
        hanging=some(0.05, 0.2),
        flat=some(0.3, 0.5),
        refused=some(0.1, 0.2),
        refused_once=some(0.2, 0.3),
        lost_answers=dice.choice([0.0, 0.0, 0.05]),
        same_checksums=dice.random() < 0.5,
        faults=tuple(faults),
    )


def live(plan):
    with tempfile.TemporaryDirectory() as folder:
        world = World(plan, Path(folder))

        def flushed(descriptor):
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            world.on_disk[path] = os.fstat(descriptor).st_size

        try:
            with patch("os.fsync", flushed):
                run_virtually(live_through(world), LIMIT_S)
        finally:
            world.lines = [json.loads(line) for line in _whole_lines(Path(folder))]
        ledger = Ledger(Path(folder) / "ledger.jsonl", world.commit[1] if world.commit else None)
        world.state = ledger.state
        ledger.close()
    return world


def _whole_lines(folder):
    text = (folder / "ledger.jsonl").read_bytes()
    return text[: text.rfind(b"\n") + 1].splitlines()


def require_sound(world):
    """What must hold whatever has happened."""
    assert world.errors == []
    steps, size = world.plan.num_steps, world.plan.rule.groups_per_step
    assert sorted(world.batches) == list(range(steps))
    trained = Counter(group.draw for groups in world.batches.values() for group in groups)
    assert set(trained.values()) <= {1}
    ends = Counter(
        line["draw"] for line in world.lines if line["event"] in ("accepted", "filtered", "dropped")
    )
    state = world.state
    assert ends == Counter(range(state.next_draw))  # every draw has ended, and only once
    assert (state.unfinished, state.scored, state.buffered) == ({}, {}, {})
    assert state.num_trained == len(trained) == steps * size
    assert state.next_draw == state.num_trained + state.num_dropped + state.num_filtered
    served = Counter(line["step"] for line in world.lines if line["event"] == "trained")
    assert served == Counter(range(steps))


@settings(max_examples=50)
@given(st.integers(0, 2**32))
def test_whatever_happens_every_draw_ends_once_and_no_token_is_too_old(seed):
    require_sound(live(plan_of(seed)))


@settings(max_examples=30)
@given(st.integers(0, 2**32))
def test_after_a_power_cut_all_goes_on_from_the_last_checkpoint(seed):
    """Once or more, among everything else that may happen."""
    dice = random.Random(f"power {seed}")
    plan = plan_of(seed)
    cuts = [(dice.expovariate(1 / 40), "power") for _ in range(dice.randint(1, 3))]
    faults = [*plan.faults, *cuts]
    dice.shuffle(faults)
    world = live(replace(plan, faults=tuple(faults)))
    assume("driver: dark" in [what for _, what in world.history])  # else all was done before
    require_sound(world)


@settings(max_examples=8)
@given(st.integers(0, 2**32))
def test_at_staleness_zero_the_batches_are_the_same_whatever_the_latencies(seed):
    """And whatever dies: only who refuses a sample, and how often, may not depend on chance."""
    plan = replace(plan_of(seed), rule=AdmissionRule(2, 0, 0), refused_once=frozenset())
    other = replace(plan, seed=seed + 1, sample_s=20.0, update_s=0.1, engines=3, faults=())
    first, second = live(plan), live(other)
    require_sound(first)
    require_sound(second)
    draws = [
        {step: [group.draw for group in groups] for step, groups in world.batches.items()}
        for world in (first, second)
    ]
    assert draws[0] == draws[1]


@pytest.mark.parametrize(
    ("seed", "what"),
    [
        (
            17,
            "an engine went back to the weights of a restarted trainer, and began work under them",
        ),
        (28, "work that was sent twice was generated after it had been given back"),
        (101999, "a sample begun under newer weights went on under older ones, and passed for new"),
        (51, "an engine on its way to weights of a dead trainer answered a probe under them"),
    ],
)
def test_histories_that_went_wrong_once(seed, what):
    require_sound(live(plan_of(seed)))
