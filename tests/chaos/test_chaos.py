"""`make chaos N=20`: N random deaths over one longer run; whatever dies when, nothing is lost, and
the policy learns what it learns undisturbed.

CHAOS_N is the number of deaths, CHAOS_SEED makes them the same ones again (as far as time allows).
"""

from __future__ import annotations

import os
import random
import time

import pytest
from online_run import OnlineRun

DEATHS = int(os.environ.get("CHAOS_N", "5"))
SEED = int(os.environ.get("CHAOS_SEED", str(time.time_ns() % 10**6)))
# How likely each is. A killed verifier costs the least, a killed driver half a minute.
WEIGHTS = {
    "engine": 5, "trainer": 4, "coordinator": 4, "reward worker": 3, "verifier": 3, "tracker": 2,
    "trainer groups": 2, "driver": 2,
}  # fmt: skip
# Restarts that one life of the driver grants each (posttrain.cluster.launcher).
GRANTED = {"trainer": 3, "trainer groups": 3, "coordinator": 3}
STEPS_PER_DEATH = 20
DEADLY_SHARE = 0.75  # of the steps; the last death is still to be made good
FEWEST_STEPS = 400  # by then the reward has long stopped rising
# A rate that stays at its peak unlearns it again in some runs, undisturbed ones too.
LEARNING = {"lr": 5e-4, "schedule": "linear"}
END_STEPS = 40  # at the end, over which the reward is averaged
NOISE = 0.02  # of that average; undisturbed runs of three seeds lay between .996 and 1.000
MOST_WAIT_S = 3.0  # after the step: what dies may still be starting, or be just about to save


def test_whatever_dies_whenever(workplace, calm_workplace):
    dice = random.Random(SEED)
    steps = max(FEWEST_STEPS, STEPS_PER_DEATH * DEATHS)
    print(f"\nCHAOS_SEED={SEED}: {DEATHS} deaths over {steps} steps")
    calm = OnlineRun(calm_workplace, steps=steps, tokens=48, **LEARNING)
    calm.run()  # beside the other, which often waits for something to start
    run = OnlineRun(workplace, steps=steps, tokens=48, **LEARNING)
    run.run()
    run.wait_for_step(1)
    granted = dict(GRANTED)
    deadly_steps = sorted(dice.randrange(1, round(DEADLY_SHARE * steps)) for _ in range(DEATHS))
    for number, step in enumerate(deadly_steps):
        victim = dice.choices([*WEIGHTS], [*WEIGHTS.values()])[0]
        if granted.get(victim, 1) == 0:
            victim = "driver"
        run.wait_for_step(step)
        time.sleep(dice.random() ** 2 * MOST_WAIT_S)
        print(f"{time.strftime('%T')} {number + 1}: {victim} at step {run.steps_done()}/{steps}")
        if victim == "driver":
            run.kill_driver()
            run.resume()
            granted = dict(GRANTED)
            continue
        if victim in granted:
            granted[victim] -= 1
        run.kill(victim)
    said = run.finish()
    print(said[-600:])
    calm.finish()
    run.check_records()
    learnt, undisturbed = (each.reward_at_the_end(END_STEPS) for each in (run, calm))
    print(f"reward at the end: {learnt:.3f}, undisturbed {undisturbed:.3f}")
    assert learnt == pytest.approx(undisturbed, abs=NOISE)
    assert workplace.leftovers(75.0) == []  # agents of a killed raylet need a minute
