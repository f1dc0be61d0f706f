"""The coordinator with fake engines and rewards: real event loop, no process."""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from posttrain.errors import DeadlineExceeded, EngineFailed, RewardBroken
from posttrain.loop.admission import AdmissionRule
from posttrain.loop.coordinator import Coordinator, LoopSettings, draw_seed
from posttrain.loop.ledger import Ledger
from posttrain.rollout.fake_engine import FakeEngine, per_token
from posttrain.types import Prompt, Sampling, Score, WeightVersion


class Prompts:
    def at(self, draw):
        return Prompt(f"p/{draw}", "p", (1, 2, 3), "1+2=", {"answer": str(draw)})


class Rewards:
    """Scores 1; draws named in `broken` break; draws in `slow` wait for `release`."""

    def __init__(self, broken=(), hang=()):
        self.broken, self.hang = set(broken), set(hang)

    async def score(self, group):
        if group.draw in self.hang:
            await asyncio.sleep(3600)
        if group.draw in self.broken:
            raise RewardBroken("raised ZeroDivisionError")
        return [Score(1.0, passed=True)] * len(group.rollouts)


class Events:
    def __init__(self):
        self.events, self.metrics = [], []

    def log(self, metrics, **axes):
        self.metrics.append((axes, dict(metrics)))

    def event(self, name, **details):
        self.events.append((name, details))

    def samples(self, step, rows):
        pass


SETTINGS = LoopSettings(
    rule=AdmissionRule(groups_per_step=4, steps_ahead=1, max_staleness=1),
    num_steps=6,
    samples_per_prompt=2,
    sampling=Sampling(8),
    seed=7,
)


def version(number):
    return WeightVersion(0, number, f"c{number}", f"/nowhere/{number}")


def coordinator(settings=SETTINGS, rewards=None, engines=None, snapshot=None):
    return Coordinator(
        settings,
        Prompts(),
        engines or [FakeEngine("0"), FakeEngine("1")],
        rewards or Rewards(),
        Events(),
        Ledger(None),
        snapshot,
    )


async def train(loop, begin=0, end=None, settings=SETTINGS):
    """A trainer in small: the batches that it was served."""
    batches = []
    await loop.publish(version(begin))
    for step in range(begin, end if end is not None else settings.num_steps):
        batch = await asyncio.wait_for(loop.next_batch(step), 5)
        if batch is None:
            break
        batches.append(batch)
        await loop.publish(version(step + 1))
    return batches


def draws(batches):
    return [scored.group.draw for batch in batches for scored in batch.groups]


def test_every_draw_is_trained_once_and_no_batch_is_too_old():
    async def run():
        loop = coordinator()
        batches = await train(loop)
        await loop.close()
        return batches

    batches = asyncio.run(run())
    assert [len(batch.groups) for batch in batches] == [4] * 6
    assert sorted(draws(batches)) == list(range(24))  # nothing beyond the last step is generated
    for batch in batches:
        ages = [batch.step - scored.group.start_version for scored in batch.groups]
        assert min(ages) >= 0 and max(ages) <= 1
        numbers = [scored.group.draw for scored in batch.groups]
        assert numbers == sorted(numbers)


def test_staleness_zero_trains_fresh_groups_only():
    settings = replace(SETTINGS, rule=AdmissionRule(4, 0, 0))

    async def run():
        loop = coordinator(settings)
        batches = await train(loop, settings=settings)
        await loop.close()
        return batches

    for batch in asyncio.run(run()):
        assert {scored.group.start_version for scored in batch.groups} == {batch.step}
        assert [s.group.draw for s in batch.groups] == list(
            range(4 * batch.step, 4 * batch.step + 4)
        )


def test_a_broken_verifier_drops_the_group_and_gives_its_place_back():
    async def run():
        loop = coordinator(rewards=Rewards(broken={3, 9}))
        batches = await train(loop)
        state = (await loop.snapshot())["ledger"]
        await loop.close()
        return batches, state

    batches, state = asyncio.run(run())
    assert sorted(draws(batches)) == [d for d in range(26) if d not in (3, 9)]
    assert (state["num_trained"], state["num_dropped"]) == (24, 2)


def test_a_verifier_that_breaks_too_often_stops_the_stage():
    settings = replace(SETTINGS, broken_min_answers=8)

    async def run():
        loop = coordinator(settings, rewards=Rewards(broken=set(range(100))))
        with pytest.raises(RewardBroken, match="broke on 100 % of 8 answers"):
            await train(loop, settings=settings)
        await loop.close()

    asyncio.run(run())


def test_a_reward_that_never_returns_is_named_after_its_deadline():
    settings = replace(SETTINGS, score_deadline_s=0.05)

    async def run():
        loop = coordinator(settings, rewards=Rewards(hang={1}))
        with pytest.raises(DeadlineExceeded, match=r"for the reward worker to score prompt p/1"):
            await train(loop, settings=settings)
        await loop.close()

    asyncio.run(run())


def test_work_of_a_dead_engine_goes_to_another():
    async def run():
        engines = [FakeEngine("0"), FakeEngine("1")]
        loop = coordinator(engines=engines)
        await loop.publish(version(0))
        engines[0].die()
        batches = []
        for step in range(6):
            batches.append(await asyncio.wait_for(loop.next_batch(step), 5))
            await loop.publish(version(step + 1))
        await loop.close()
        return batches

    assert Counter(draws(asyncio.run(run()))) == Counter(range(24))


def test_without_any_engine_the_stage_fails():
    async def run():
        engine = FakeEngine("0")
        loop = coordinator(engines=[engine])
        await loop.publish(version(0))
        engine.die()
        with pytest.raises(EngineFailed):
            for step in range(6):
                await asyncio.wait_for(loop.next_batch(step), 5)
                await loop.publish(version(step + 1))
        await loop.close()

    asyncio.run(run())


def test_a_step_is_served_again_until_it_is_committed():
    async def run():
        loop = coordinator()
        await loop.publish(version(0))
        first = await loop.next_batch(0)
        again = await loop.next_batch(0)
        await loop.publish(version(1))
        await loop.committed(0)
        await loop.close()
        return first, again

    first, again = asyncio.run(run())
    assert first == again


def test_a_restart_loses_nothing_and_trains_nothing_twice():
    async def run():
        before = coordinator()
        trained = await train(before, end=3)
        snapshot = await before.snapshot()
        await before.close()
        after = coordinator(snapshot=snapshot)
        trained += await train(after, begin=3)
        await after.close()
        return trained, snapshot

    trained, snapshot = asyncio.run(run())
    assert Counter(draws(trained)) == Counter(range(24))
    assert snapshot["ledger"]["num_trained"] == 12


def test_stop_tells_a_waiting_trainer_to_end():
    async def run():
        loop = coordinator(rewards=Rewards(hang=set(range(100))))
        await loop.publish(version(0))
        waiting = asyncio.create_task(loop.next_batch(0))
        await asyncio.sleep(0.05)
        await loop.stop()
        result = await asyncio.wait_for(waiting, 1)
        await loop.close()
        return result

    assert asyncio.run(run()) is None


def test_seeds_of_draws_are_fixed_and_differ():
    assert draw_seed(7, 0) == draw_seed(7, 0)
    assert len({draw_seed(7, draw) for draw in range(1000)}) == 1000


def test_a_call_that_a_dead_trainer_left_behind_takes_no_batch_of_its_own():
    async def run():
        loop = coordinator()
        left_behind = asyncio.create_task(loop.next_batch(0))  # before any group is there
        again = asyncio.create_task(loop.next_batch(0))
        await asyncio.sleep(0.01)
        await loop.publish(version(0))
        first, second = await asyncio.wait_for(asyncio.gather(left_behind, again), 5)
        batches = [second]
        for step in range(1, SETTINGS.num_steps):
            await loop.publish(version(step))
            batches.append(await asyncio.wait_for(loop.next_batch(step), 5))
        await loop.close()
        return first, second, batches

    first, second, batches = asyncio.run(run())
    assert first == second
    assert sorted(draws(batches)) == list(range(24))


def test_after_a_trainer_fell_back_what_runs_is_begun_anew_and_the_bound_holds():
    async def run():
        loop = coordinator(engines=[FakeEngine("0", latency=per_token(0.002))])
        await loop.publish(version(0))
        batches = []
        for step in range(3):
            batches.append(await asyncio.wait_for(loop.next_batch(step), 5))
            await loop.publish(version(step + 1))
        await loop.committed(0)  # the checkpoint holds step 0; the trainer dies and falls back to 1
        await loop.publish(version(1))
        redone = []
        for step in range(1, SETTINGS.num_steps):
            redone.append(await asyncio.wait_for(loop.next_batch(step), 5))
            await loop.publish(version(step + 1))
        await loop.close()
        return batches, redone

    batches, redone = asyncio.run(run())
    assert redone[:2] == batches[1:]  # the same batches again
    assert sorted(draws([batches[0], *redone])) == list(range(24))
    for batch in redone:
        for scored in batch.groups:
            oldest = min(v for rollout in scored.group.rollouts for v in rollout.versions)
            assert batch.step - oldest <= 1
