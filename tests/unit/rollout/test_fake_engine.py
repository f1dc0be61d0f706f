"""The fake engine keeps the promises of a real one."""

import asyncio

import pytest
from virtual_clock import run_virtually

from posttrain.errors import EngineFailed, WeightsDiffer
from posttrain.rollout.fake_engine import END_OF_TURN, FakeEngine, per_token
from posttrain.types import Prompt, Sampling, WeightVersion

PROMPT = Prompt("test/0", "test", (5, 3, 12), "7+58=", {})


def published(version):
    return WeightVersion(0, version, "", "")


def test_the_same_seed_gives_the_same_answers_and_samples_differ():
    async def twice():
        sampling = Sampling(32, seed=4)
        first = await FakeEngine().generate("g", PROMPT, 4, sampling)
        return first, await FakeEngine("1").generate("g", PROMPT, 4, sampling)

    (version, first), (_, second) = run_virtually(twice())
    assert version == 0
    assert first == second
    assert [rollout.sample for rollout in first] == [0, 1, 2, 3]
    assert len({rollout.token_ids for rollout in first}) == 4


def test_answers_are_whole_records():
    async def many():
        prompts = [Prompt(str(i), "test", (i,), "", {}) for i in range(64)]
        return await FakeEngine(latency=per_token(0.0)).generate_many(prompts, Sampling(4, seed=1))

    rollouts = run_virtually(many())
    assert [rollout.group_id for rollout in rollouts] == [str(i) for i in range(64)]
    assert {len(rollout.token_ids) for rollout in rollouts} == {1, 2, 3, 4}
    for rollout in rollouts:
        assert len(rollout.mask) == len(rollout.logprobs) == len(rollout.token_ids)
        assert max(rollout.logprobs) <= 0
        ended = rollout.token_ids[-1] == END_OF_TURN
        assert rollout.finish == ("stop" if ended else "length")
        assert ended or len(rollout.token_ids) == 4


def test_tokens_carry_the_version_that_was_live():
    async def update_in_the_middle():
        engine = FakeEngine(latency=lambda prompt, sample, num_tokens: 0.2)
        sampling = Sampling(64, seed=9)
        answer = asyncio.create_task(engine.generate("g", PROMPT, 1, sampling))
        await asyncio.sleep(0.1)
        await engine.update_weights(published(1))
        return await answer, await engine.generate("g", PROMPT, 1, sampling)

    (start, (first,)), (later, (second,)) = run_virtually(update_in_the_middle())
    assert (start, later) == (0, 1)
    assert set(first.versions) == {0, 1}
    assert list(first.versions) == sorted(first.versions)
    assert first.versions.count(0) == len(first.versions) // 2  # 0.1 of 0.2 s
    assert set(second.versions) == {1}


def test_death_ends_what_is_under_way_and_what_comes_later():
    async def die():
        engine = FakeEngine(latency=lambda prompt, sample, num_tokens: 60.0)
        answer = asyncio.create_task(engine.generate("g", PROMPT, 2, Sampling(8)))
        await asyncio.sleep(0.01)
        engine.die()
        with pytest.raises(EngineFailed, match="engine 0 is dead"):
            await answer
        with pytest.raises(EngineFailed):
            await engine.generate("g", PROMPT, 1, Sampling(8))

    run_virtually(die())


def test_a_faulty_update_keeps_the_version():
    async def update():
        engine = FakeEngine(faulty_checksums=1)
        with pytest.raises(WeightsDiffer):
            await engine.update_weights(published(1))
        assert engine.version == 0
        return await engine.update_weights(published(1))

    assert run_virtually(update()).version == 1


def test_stats_count_since_the_last_call():
    async def count():
        engine = FakeEngine(latency=lambda prompt, sample, num_tokens: 0.01)
        _, rollouts = await engine.generate("g", PROMPT, 3, Sampling(8, seed=2))
        return rollouts, await engine.stats(), await engine.stats()

    rollouts, first, second = run_virtually(count())
    num_tokens = sum(len(rollout.token_ids) for rollout in rollouts)
    rest = {"running": 0.0, "waiting": 0.0, "cache_hit_share": 0.0}
    assert first == {"busy_s": 0.03, "tokens": num_tokens} | rest
    assert second["tokens"] == 0
