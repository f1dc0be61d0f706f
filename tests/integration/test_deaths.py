"""Any process may die at any time, and nothing is lost: one run, in which each one is killed."""

import json
import re

import pytest
from conftest import AGENTS
from online_run import OnlineRun

from posttrain.pipeline.unfinished import unfinished_work

STEPS = 80
CHECKPOINT_EVERY = 12


@pytest.fixture(scope="module")
def survivor(workplace):
    """The run after eight deaths, with what was seen on the way."""
    run = OnlineRun(workplace, steps=STEPS, tokens=48, checkpoint_every=CHECKPOINT_EVERY)
    seen = {}
    run.run()
    run.wait_for_step(7)
    run.kill("engine")
    run.wait_for_event("engine-replaced")
    run.wait_for_step(17)
    run.kill("coordinator")
    run.wait_for_event("coordinator-restarted")
    run.wait_for_step(2 * CHECKPOINT_EVERY + 3)  # far from the next one: it is to train some again
    run.kill("trainer")
    seen["before"] = {step: run.answers(step) for step in range(run.steps_done())}
    run.wait_for_event("trainer-restarted")
    run.wait_for_step(len(seen["before"]) + 2)
    seen["after"] = {step: run.answers(step) for step in seen["before"]}
    run.kill("verifier")
    run.kill("reward worker")
    run.wait_for_event("reward-worker-restarted")
    run.kill("tracker")
    run.wait_for_event("tracker-restarted")
    run.wait_for_step(40)
    run.kill("trainer groups")
    run.wait_for_event("trainer-restarted", count=2)
    run.wait_for_step(4 * CHECKPOINT_EVERY + 4)
    run.kill_driver()
    unfinished = unfinished_work(run.folder)
    seen["half-done tokens"] = unfinished.half_done_tokens if unfinished else 0
    run.resume()
    seen["said"] = run.finish()
    seen["left at the end"] = workplace.leftovers(besides=AGENTS)
    return run, seen


def test_every_draw_is_trained_exactly_once_and_none_too_late(survivor):
    survivor[0].check_records()


def test_each_death_is_told_and_made_good(survivor):
    run, _ = survivor
    lost = run.events("engine-lost")
    assert [(event["engine"], event["message"]) for event in lost] == [("0", "its process died")]
    assert [(e["engine"], e["by"]) for e in run.events("engine-replaced")] == [("0", "1")]
    assert len(run.events("coordinator-restarted")) == 1
    assert len(run.events("trainer-restarted")) == 2
    assert len(run.events("reward-worker-restarted")) == 1
    assert len(run.events("tracker-restarted")) == 1
    assert json.loads((run.folder / "manifest.json").read_text())["attempt"] == 1


def test_a_restarted_trainer_is_served_the_same_batches(survivor):
    run, seen = survivor
    restarted = run.events("trainer-restarted")[0]
    assert 0 < restarted["from_step"] < len(seen["before"])
    assert seen["after"] == seen["before"]


def test_nothing_is_left_running_or_in_memory(survivor):
    """Nor of the driver that was killed, or what it had started."""
    assert survivor[1]["left at the end"] == []


def test_half_done_answers_of_a_killed_run_go_on_from_their_tokens(survivor):
    """As many as there were at that moment; test_pipeline.py makes sure of some."""
    run, seen = survivor
    rows = [row for row in run.rows() if row["attempt"] == 1]
    continued = sum(row.get("ops/continued_tokens", 0.0) for row in rows)
    assert continued >= seen["half-done tokens"]


def test_the_screen_tells_it_in_our_words_alone(survivor):
    said = survivor[1]["said"]
    assert "\x1b" not in said and "(raylet)" not in said and "core_worker" not in said
    assert re.search(r"6 restarts, 0 rollouts lost, 0 trained twice", said)


def test_at_last_nothing_at_all_is_left(workplace, survivor):
    assert workplace.leftovers(75.0) == []
