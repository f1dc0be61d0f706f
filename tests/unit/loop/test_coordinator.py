"""The coordinator with small engines and rewards: no process, and virtual time."""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest
from hands import Events, Hand, Prompts, Rewards, uneven, version
from virtual_clock import run_virtually

from posttrain.errors import EngineFailed, RewardBroken, WeightsDiffer
from posttrain.loop.admission import AdmissionRule
from posttrain.loop.coordinator import Coordinator
from posttrain.loop.ledger import Ledger
from posttrain.loop.settings import LoopSettings, draw_seed
from posttrain.types import Sampling

SETTINGS = LoopSettings(
    rule=AdmissionRule(groups_per_step=4, steps_ahead=1, max_staleness=1),
    num_steps=6,
    samples_per_prompt=2,
    sampling=Sampling(8),
    seed=7,
)


class Stage:
    """A coordinator with its engines, and a trainer in small."""

    def __init__(self, settings=SETTINGS, rewards=None, hands=None, path=None, snapshot=None):
        self.settings = settings
        self.rewards = rewards or Rewards()
        self.events = Events()
        self.loop = Coordinator(
            settings, Prompts(), self.rewards, self.events, Ledger(path, snapshot)
        )
        self.hands = hands if hands is not None else [Hand("0"), Hand("1")]

    async def __aenter__(self):
        for hand in self.hands:
            hand.start(self.loop)
        return self

    async def __aexit__(self, *_):
        await self.loop.close()
        for hand in self.hands:
            await hand.die()

    async def train(self, begin=0, end=None, attempt=0, sync_every=1):
        batches = []
        await self.loop.publish(version(begin, attempt))
        for step in range(begin, self.settings.num_steps if end is None else end):
            batch = await asyncio.wait_for(self.loop.next_batch(step), 5)
            if batch is None:
                break
            batches.append(batch)
            if (step + 1) % sync_every == 0:
                await asyncio.wait_for(self.loop.publish(version(step + 1, attempt)), 5)
        return batches


def draws(batches):
    return [group.draw for batch in batches for group in batch.groups]


def test_every_draw_is_trained_once_and_no_batch_is_too_old():
    async def run():
        hands = [Hand("0", uneven(0)), Hand("1", uneven(1), lag_s=0.004)]
        async with Stage(hands=hands) as stage:
            return await stage.train()

    batches = run_virtually(run())
    assert [len(batch.groups) for batch in batches] == [4] * 6
    assert sorted(draws(batches)) == list(range(24))  # nothing beyond the last step is generated
    for batch in batches:
        ages = [batch.step - group.start_version for group in batch.groups]
        assert min(ages) >= 0 and max(ages) <= 1
        numbers = [group.draw for group in batch.groups]
        assert numbers == sorted(numbers)


def test_staleness_zero_trains_fresh_groups_only():
    async def run():
        async with Stage(replace(SETTINGS, rule=AdmissionRule(4, 0, 0))) as stage:
            return await stage.train()

    for batch in run_virtually(run()):
        assert {group.start_version for group in batch.groups} == {batch.step}
        assert draws([batch]) == list(range(4 * batch.step, 4 * batch.step + 4))


def test_a_broken_verifier_drops_the_group_and_gives_its_place_back():
    async def run():
        async with Stage(rewards=Rewards(broken={3, 9})) as stage:
            return await stage.train(), stage.loop._ledger.state

    batches, state = run_virtually(run())
    assert sorted(draws(batches)) == [draw for draw in range(26) if draw not in (3, 9)]
    assert (state.num_trained, state.num_dropped) == (24, 2)


def test_a_verifier_that_breaks_too_often_stops_the_stage():
    async def run():
        async with Stage(rewards=Rewards(broken=range(1000))) as stage:
            stage.loop._groups.health.min_answers = 8
            with pytest.raises(RewardBroken, match="broke on 50 % of 8 answers"):
                await stage.train()

    run_virtually(run())


def test_a_reward_that_never_returns_drops_its_group_after_the_deadline():
    async def run():
        settings = replace(SETTINGS, score_deadline_s=0.05)
        async with Stage(settings, Rewards(hang={1})) as stage:
            return await stage.train(), stage.events

    batches, events = run_virtually(run())
    assert sorted(draws(batches)) == [0, *range(2, 25)]
    assert [event["reason"] for event in events.named("dropped")] == [
        "the coordinator waited 0 s for the reward worker to score prompt p/1"
    ]


def test_groups_without_signal_are_left_out_and_refilled():
    async def run():
        settings = replace(SETTINGS, filter_no_signal=True)
        async with Stage(settings, Rewards(flat={0, 5, 6, 13})) as stage:
            return await stage.train(), stage.loop._ledger.state, stage.events

    batches, state, events = run_virtually(run())
    assert sorted(draws(batches)) == [draw for draw in range(28) if draw not in (0, 5, 6, 13)]
    assert state.num_filtered == 4
    assert sum(metrics["groups/filtered"] for _, metrics in events.metrics) == 4


def test_work_of_a_dead_engine_goes_to_another():
    async def run():
        hands = [Hand("0", lambda work, sample: 0.05), Hand("1")]
        async with Stage(hands=hands) as stage:
            training = asyncio.create_task(stage.train())
            while not hands[0].held:  # it has work that it has not finished
                await asyncio.sleep(0.001)
            await hands[0].die()
            await stage.loop.engine_died("0", EngineFailed("its process died"))
            return await training, stage.events

    batches, events = run_virtually(run())
    assert Counter(draws(batches)) == Counter(range(24))
    assert [event["engine"] for event in events.named("engine-lost")] == ["0"]
    assert events.metrics[-1][1]["ops/rollouts_lost"] == 0
    assert sum(metrics["ops/retries"] for _, metrics in events.metrics) > 0


def test_an_engine_that_joins_late_is_given_weights_and_work():
    async def run():
        hands = [Hand("0", lambda work, sample: 0.01, capacity=4)]
        async with Stage(hands=hands) as stage:
            training = asyncio.create_task(stage.train())
            await asyncio.sleep(0.03)
            late = Hand("late").start(stage.loop)
            hands.append(late)
            return await training, late

    batches, late = run_virtually(run())
    assert Counter(draws(batches)) == Counter(range(24))
    assert late.num_generated > 0
    assert late.acknowledged.version == 6


def test_an_engine_that_falls_silent_is_given_up():
    async def run():
        settings = replace(SETTINGS, silence_deadline_s=0.5)
        hands = [Hand("0"), Hand("1")]
        async with Stage(settings, hands=hands) as stage:
            await stage.loop.publish(version(0))
            await stage.loop.wait_acknowledged(0)
            hands[0].mute = True
            return await stage.train(), stage.loop.lost_engines()

    batches, lost = run_virtually(run())
    assert Counter(draws(batches)) == Counter(range(24))
    assert lost["0"].startswith("the coordinator has heard nothing of engine 0 for")


def test_an_engine_that_does_not_take_the_weights_is_named_and_given_up():
    async def run():
        settings = replace(SETTINGS, sync_deadline_s=1.0)
        hands = [Hand("0"), Hand("1")]
        async with Stage(settings, hands=hands) as stage:
            await stage.loop.publish(version(0))
            await stage.loop.wait_acknowledged(0)
            hands[0].lag_s = 3600
            return await stage.train(), stage.loop.lost_engines()

    batches, lost = run_virtually(run())
    assert Counter(draws(batches)) == Counter(range(24))
    assert lost["0"].startswith("trainer rank 0 waited")
    assert "for engine 0 to take version 1; engines 1 answered" in lost["0"]


def test_an_engine_that_answers_with_another_version_is_given_up_and_twice_stops_the_stage():
    async def run():
        bad = Hand("0")
        bad.answers_with = lambda weights: replace(weights, checksum="0badc0de")
        worse = Hand("1")
        worse.answers_with = lambda weights: replace(weights, version=weights.version + 7)
        async with Stage(hands=[bad, Hand("2")]) as stage:
            await stage.loop.publish(version(0))
            await stage.loop.wait_acknowledged(0)
            lost = stage.loop.lost_engines()
            stage.hands.append(worse.start(stage.loop))
            with pytest.raises(WeightsDiffer, match=r"engine 1 answers with version \d+ "):
                for attempt in range(1, 4):
                    await stage.train(attempt=attempt)
            return lost

    lost = run_virtually(run())
    assert lost == {
        "0": "engine 0 answers with version 0 (0badc0de), the trainer has published 0 (c0)"
    }


def test_without_any_engine_the_stage_fails():
    async def run():
        settings = replace(SETTINGS, no_engine_deadline_s=0.5)
        async with Stage(settings, hands=[]) as stage:
            await stage.loop.publish(version(0))
            with pytest.raises(EngineFailed, match="no engine has been at work for"):
                await asyncio.wait_for(stage.loop.next_batch(0), 5)

    run_virtually(run())


def test_a_sample_that_no_engine_can_generate_drops_its_group():
    async def run():
        hands = [Hand("0", refuse={2}), Hand("1", refuse={2})]
        async with Stage(hands=hands) as stage:
            return await stage.train(), stage.events

    batches, events = run_virtually(run())
    assert sorted(draws(batches)) == [draw for draw in range(25) if draw != 2]
    assert [event["reason"] for event in events.named("dropped")] == ["too long"]


def test_a_step_is_served_again_until_it_is_committed():
    async def run():
        async with Stage() as stage:
            await stage.loop.publish(version(0))
            first = await stage.loop.next_batch(0)
            again = await stage.loop.next_batch(0)
            return first, again

    first, again = run_virtually(run())
    assert first.groups == again.groups


def test_a_restarted_coordinator_goes_on_from_commit_and_ledger(tmp_path):
    path = tmp_path / "ledger.jsonl"

    async def run():
        async with Stage(path=path) as before:
            trained = await before.train(end=2)
            snapshot = await before.loop.snapshot()
            await before.loop.committed(2)
            trained += [await before.loop.next_batch(2)]  # handed out, and not committed
            await asyncio.sleep(0.02)  # others are finished and wait
            waiting = set(before.loop._ledger.state.buffered)
        async with Stage(path=path, snapshot=snapshot) as after:
            again = await after.train(begin=2, attempt=1)
            generated = {work.draw for hand in after.hands for work in hand.works}
        return trained, again, waiting, generated

    trained, again, waiting, generated = run_virtually(run())
    assert again[0].groups == trained[2].groups
    assert Counter(draws(trained[:2] + again)) == Counter(range(24))
    assert waiting  # else the next line says nothing
    assert not generated & (waiting | set(draws(trained)))  # nothing is generated twice


def test_a_trainer_that_fell_back_is_served_the_same_and_engines_keep_what_they_run():
    async def run():
        async with Stage(hands=[Hand("0", uneven(3))]) as stage:
            batches = await stage.train(end=3)
            await stage.loop.committed(1)
            version_before = stage.hands[0].acknowledged.version
            redone = await stage.train(begin=1, attempt=1)
            return batches, redone, version_before, stage

    batches, redone, version_before, stage = run_virtually(run())
    assert [b.groups for b in redone[:2]] == [b.groups for b in batches[1:]]
    assert sorted(draws([batches[0], *redone])) == list(range(24))
    assert version_before >= 2
    assert stage.hands[0].num_generated == 48  # nothing was generated twice
    assert stage.hands[0].acknowledged.attempt == 1
    for batch in redone:
        assert max(batch.step - group.start_version for group in batch.groups) <= 1


def test_engines_that_outlive_their_coordinator_keep_their_work(tmp_path):
    path = tmp_path / "ledger.jsonl"

    async def run():
        hand = Hand("0", lambda work, sample: 0.3)
        first = Stage(path=path, hands=[hand])
        async with first:
            await first.loop.publish(version(0))
            await first.loop.wait_acknowledged(0)
            await asyncio.sleep(0.05)
            held = set(hand.held)
            hand._served.cancel()  # the coordinator dies; its engine goes on generating
            first.hands = []
        second = Stage(path=path, hands=[hand, Hand("1")])
        async with second:
            batches = await second.train(attempt=0)
        return held, batches, second.hands[1]

    held, batches, other = run_virtually(run())
    assert Counter(draws(batches)) == Counter(range(24))
    assert len(held) == 16
    assert not {(w.lane, w.draw, s) for w in other.works for s in w.samples} & held


def test_stop_tells_a_waiting_trainer_to_end_and_engines_to_write_down_what_they_have():
    async def run():
        async with Stage(rewards=Rewards(hang=range(100))) as stage:
            await stage.loop.publish(version(0))
            waiting = asyncio.create_task(stage.loop.next_batch(0))
            await asyncio.sleep(0.05)
            await stage.loop.stop()
            return await asyncio.wait_for(waiting, 1), stage.loop._fleet.links["0"].journal

    assert run_virtually(run()) == (None, 1)


def test_held_out_questions_are_answered_without_stopping_the_training():
    async def run():
        settings = replace(SETTINGS, heldout_every=3)
        stage = Stage(settings)
        stage.loop._publications.heldout = [Prompts().at(10_000 + i) for i in range(10)]
        async with stage:
            batches = await stage.train()
            await asyncio.sleep(0.05)
            return batches, stage.events

    batches, events = run_virtually(run())
    assert Counter(draws(batches)) == Counter(range(24))
    heldout = [(axes, m) for axes, m in events.metrics if "reward/heldout_mean" in m]
    assert [axes["version"] for axes, _ in heldout] == [0, 3, 6]
    assert all(metrics["reward/heldout_mean"] == 0.0 for _, metrics in heldout)


def test_weights_that_are_sent_again_are_told_to_who_lacks_them_and_wait_for_nobody():
    """As by nccl, where an engine has joined that the first group did not know."""

    async def run():
        hands = [Hand("0"), Hand("1", lag_s=60.0)]
        async with Stage(hands=hands) as stage:
            await stage.loop.publish(version(0))
            while hands[0].acknowledged is None:
                await asyncio.sleep(0.1)
            hands.append(Hand("2").start(stage.loop))
            hands[2].lag_s = 1.0
            await asyncio.sleep(0.5)
            lacking = stage.loop.engines(version(0)), stage.loop.engines(version(1))
            again = replace(version(0), location="/elsewhere/0")
            began = asyncio.get_running_loop().time()
            await stage.loop.publish(again)
            waited_s = asyncio.get_running_loop().time() - began
            await asyncio.sleep(5.0)
            return waited_s, lacking, [hand.acknowledged for hand in hands], stage

    waited_s, lacking, acknowledged, stage = run_virtually(run())
    again = replace(version(0), location="/elsewhere/0")
    assert waited_s == 0.0
    assert lacking == (["1", "2"], ["0", "1", "2"])
    assert acknowledged == [version(0), None, again]
    assert stage.loop._ledger.state.weights == again
    assert stage.loop._fleet.links["1"].told == again


def test_who_took_a_version_before_it_was_sent_again_has_all_the_time_for_the_next_one():
    async def run():
        hand = Hand("0", lag_s=1.0)
        hand.answers_with = lambda weights: version(weights.version)  # the first is what it took
        async with Stage(hands=[hand]) as stage:
            await stage.loop.publish(version(0))
            await asyncio.sleep(0.5)
            await stage.loop.publish(replace(version(0), location="/elsewhere/0"))
            await asyncio.sleep(2 * SETTINGS.sync_deadline_s)
            hand.lag_s = 10.0
            await stage.loop.publish(version(1))
            await stage.loop.wait_acknowledged(1)
            return stage.events.named("engine-lost"), hand.acknowledged

    assert run_virtually(run()) == ([], version(1))


def test_weights_published_every_few_steps_are_told_of_like_any_other():
    """Bound kept, every draw once; syncs and held-out rounds by the versions that there are."""

    async def run():
        rule = AdmissionRule(groups_per_step=4, steps_ahead=2, max_staleness=3)
        stage = Stage(replace(SETTINGS, rule=rule, num_steps=9, heldout_every=2))
        stage.loop._publications.heldout = [Prompts().at(10_000 + i) for i in range(4)]
        async with stage:
            batches = await stage.train(sync_every=3)
            await asyncio.sleep(0.05)
            return batches, stage.events

    batches, events = run_virtually(run())
    assert sorted(draws(batches)) == list(range(36))
    assert all(batch.step - g.start_version <= 3 for batch in batches for g in batch.groups)
    assert {g.start_version for batch in batches for g in batch.groups} <= {0, 3, 6}
    told = [(axes["version"], m) for axes, m in events.metrics if "engine/busy_share" in m]
    assert [number for number, _ in told] == [3, 6, 9]
    assert ["weights/sync_ms" in metrics for _, metrics in told] == [True, True, True]
    heldout = [axes["version"] for axes, m in events.metrics if "reward/heldout_mean" in m]
    assert heldout == [0, 3, 6, 9]


def test_a_probe_asks_every_engine():
    async def run():
        async with Stage() as stage:
            await stage.loop.publish(version(0))
            await stage.loop.wait_acknowledged(0)
            await asyncio.sleep(0.02)
            return await stage.loop.probe(3)

    answers = run_virtually(run())
    assert len(answers) == 6
    assert {ref.path for _, ref in answers} == {"/nowhere/0", "/nowhere/1"}


def test_seeds_of_draws_are_fixed_and_differ():
    assert draw_seed(7, 0) == draw_seed(7, 0)
    assert len({draw_seed(7, draw) for draw in range(1000)}) == 1000


def test_a_call_that_a_dead_trainer_left_behind_takes_no_batch_of_its_own():
    async def run():
        async with Stage() as stage:
            left_behind = asyncio.create_task(stage.loop.next_batch(0))
            again = asyncio.create_task(stage.loop.next_batch(0))
            await asyncio.sleep(0.01)
            await stage.loop.publish(version(0))
            first, second = await asyncio.wait_for(asyncio.gather(left_behind, again), 5)
            batches = [second]
            for step in range(1, SETTINGS.num_steps):
                await stage.loop.publish(version(step))
                batches.append(await asyncio.wait_for(stage.loop.next_batch(step), 5))
            return first, second, batches

    first, second, batches = run_virtually(run())
    assert first.groups == second.groups
    assert sorted(draws(batches)) == list(range(24))
