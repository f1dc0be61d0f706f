"""Single troubles of the coordinator, each told by hand on a virtual clock."""

import asyncio
from dataclasses import replace

import pytest
from hands import Events, Prompts, Rewards, version
from virtual_clock import run_virtually

from posttrain.errors import StageFailed
from posttrain.loop.admission import AdmissionRule
from posttrain.loop.coordinator import Coordinator
from posttrain.loop.fleet import Fleet
from posttrain.loop.ledger import Ledger
from posttrain.loop.settings import LoopSettings
from posttrain.types import (
    EngineReport,
    EngineStats,
    FinishedSample,
    RolloutRef,
    Sampling,
    Work,
)

SETTINGS = LoopSettings(
    rule=AdmissionRule(groups_per_step=1, steps_ahead=0, max_staleness=0),
    num_steps=4,
    samples_per_prompt=2,
    sampling=Sampling(8),
    seed=7,
)


def coordinator(path=None, settings=SETTINGS, rewards=None, snapshot=None, events=None):
    ledger = Ledger(path, snapshot)
    return Coordinator(settings, Prompts(), rewards or Rewards(), events or Events(), ledger)


def report(engine="e", acknowledged=None, received=0, process="p", **said):
    busy = EngineStats(tokens=1)
    return EngineReport(engine, process, 8, acknowledged, received=received, stats=busy, **said)


def whole(draw, sample, start=0, lane="train"):
    return FinishedSample(lane, draw, sample, RolloutRef("/nowhere", draw), start, 8)


async def at_work(loop, name="e", at=None):
    """An engine that has joined and taken weights; what it is asked to do first."""
    if loop._fleet.published is None:
        await loop.publish(version(0))
    first = await loop.exchange(report(name))
    return await loop.exchange(report(name, at or first.weights, first.number))


async def batch_of(loop, step, name="e"):
    """Let an engine finish the draw of this step, then take the batch."""
    done = tuple(whole(step, sample, step) for sample in range(2))
    await loop.exchange(report(name, version(step), 99, finished=done))
    return await loop.next_batch(step)


def virtually(main):
    return run_virtually(main(), 24 * 3600.0)


def test_an_engine_that_was_given_up_is_told_to_end_and_what_it_finished_counts():
    async def main():
        loop = coordinator()
        work = (await at_work(loop)).work[0]
        await asyncio.sleep(SETTINGS.silence_deadline_s + 2)
        lost = loop.lost_engines()
        answer = await loop.exchange(report("e", version(0), 2, finished=(whole(0, 0),)))
        return work, lost, answer, list(loop._fleet.links), loop._groups.open[0]

    work, lost, answer, links, group = virtually(main)
    assert (work.draw, work.samples) == (0, (0, 1))
    assert list(lost) == ["e"]
    assert answer.end and not answer.work
    assert links == []
    assert list(group.samples) == [0]


def test_a_report_that_names_a_running_probe_does_not_end_it():
    async def main():
        loop = coordinator()
        await at_work(loop)
        probing = asyncio.create_task(loop.probe(1))
        (asked,) = (await loop.exchange(report("e", version(0), 2))).work
        holds = ((asked.lane, asked.draw, 0), ("probe", 1, 0))
        again = await loop.exchange(report("e", version(0), 3, holds=holds))
        answer = whole(asked.draw, 0, lane="probe")
        await loop.exchange(report("e", version(0), 4, finished=(answer,)))
        return again, await probing

    again, probes = virtually(main)
    assert again.abort == (("probe", 1),)  # of another coordinator's time
    assert len(probes) == 1


def test_an_engine_with_other_weights_is_given_up_whatever_it_says_it_holds():
    async def main():
        loop = coordinator()
        await at_work(loop, "e")
        await at_work(loop, "f")
        wrong = replace(version(0), checksum="0badc0de")
        answer = await loop.exchange(report("e", wrong, 2, holds=(("train", 0, 0),)))
        return answer, loop.lost_engines(), loop._life.failure

    answer, lost, failure = virtually(main)
    assert answer.end
    assert list(lost) == ["e"]
    assert failure is None


def test_a_restarted_coordinator_tells_engines_what_was_published_before(tmp_path):
    """Else, at staleness 0, nothing of the next step would ever begin."""

    async def main():
        first = coordinator(tmp_path / "ledger")
        await at_work(first)
        await batch_of(first, 0)
        await first.publish(version(1))  # and dies before any engine has heard of it
        await first.close()
        second = coordinator(tmp_path / "ledger")
        quiet = asyncio.create_task(second.exchange(report("e", version(0))))
        await asyncio.sleep(1)
        waiting = asyncio.create_task(second.wait_acknowledged(1))
        told = await quiet
        work = await second.exchange(report("e", version(1), 1))
        ahead = await second.exchange(report("f", version(1)))  # took it before the restart
        return told, work, ahead, await waiting

    told, work, ahead, acknowledged = virtually(main)
    assert told.weights == version(1)
    assert [each.draw for each in work.work] == [1]
    assert not ahead.end
    assert acknowledged.version == 1


def test_weights_of_a_dead_driver_are_told_to_nobody(tmp_path):
    async def main():
        first = coordinator(tmp_path / "ledger")
        await first.publish(version(3))
        await first.close()
        second = coordinator(tmp_path / "ledger")
        quiet = await second.exchange(report("e"))
        await second.publish(version(0, attempt=1))
        return quiet, await second.exchange(report("e"))

    quiet, told = virtually(main)
    assert quiet.weights is None
    assert told.weights == version(0, attempt=1)


def test_a_restarted_trainer_does_not_wait_for_weights_that_died_with_the_one_before():
    async def main():
        loop = coordinator()
        await at_work(loop)
        await batch_of(loop, 0)
        await loop.publish(version(1))  # the engine never takes it
        left_behind = asyncio.create_task(loop.publish(version(2)))
        await asyncio.sleep(1)
        async with asyncio.timeout(1):
            await loop.publish(version(0, attempt=1))
        await asyncio.sleep(1)
        return left_behind.done(), loop._fleet.published, loop.lost_engines()

    done, published, lost = virtually(main)
    assert done
    assert published == version(0, attempt=1)  # not what the dead trainer was about to publish
    assert lost == {}


def test_engines_that_are_ahead_of_a_restarted_trainer_are_not_probed():
    async def main():
        loop = coordinator()
        await at_work(loop, "ahead")
        await loop.publish(version(1))
        await loop.exchange(report("ahead", version(1), 2))
        await loop.publish(version(0, attempt=1))
        return await loop.probe(1)

    assert virtually(main) == []


def test_a_probe_that_is_not_answered_in_time_is_given_up_and_told():
    async def main():
        events = Events()
        loop = coordinator(events=events)
        await at_work(loop)
        probing = asyncio.create_task(loop.probe(1))
        await asyncio.sleep(0.1)
        aborted, received = [], 2
        while not probing.done():
            answer = await loop.exchange(report("e", version(0), received))
            received = max(received, answer.number)
            aborted += answer.abort
        return await probing, events.named("probe-unanswered"), aborted

    probes, told, aborted = virtually(main)
    assert probes == []
    assert told == [{"version": 0, "missing": 1, "of": 1}]
    assert [lane for lane, _ in aborted] == ["probe"]


def test_who_joins_a_stage_that_is_over_is_sent_away():
    async def main():
        loop = coordinator()
        await loop.close()
        return await loop.exchange(report("late"))

    assert virtually(main).end


def test_work_whose_answer_was_lost_is_sent_again_though_an_older_call_was_answered():
    async def main():
        loop = coordinator()
        await loop.publish(version(0))
        first = await loop.exchange(report())
        older = asyncio.create_task(loop.exchange(report("e", None, first.number)))
        await asyncio.sleep(0)
        lost = await loop.exchange(report("e", version(0), first.number))  # never arrives
        silent = await older
        again = await loop.exchange(report("e", version(0), max(first.number, silent.number)))
        return lost, silent, again

    lost, silent, again = virtually(main)
    assert lost.work and not silent.work
    assert again.work == lost.work


def test_two_calls_at_the_same_moment_do_not_leave_the_older_one_waiting():
    async def main():
        loop = coordinator()
        await at_work(loop)
        clock = asyncio.get_running_loop().time
        older = asyncio.create_task(loop.exchange(report("e", version(0), 2)))
        newer = asyncio.create_task(loop.exchange(report("e", version(0), 2)))
        await older
        waited_s = clock()
        newer.cancel()
        return waited_s

    assert virtually(main) < 0.1


def test_work_of_a_dropped_group_does_not_go_out_any_more():
    async def main():
        fleet = Fleet()
        link = fleet.take_in(report(), 0.0)
        prompt = Prompts().at(0)
        link.works += [Work("train", draw, (0,), prompt, Sampling(8)) for draw in (3, 4)]
        link.unwanted("train", 3)
        return link.take_mail(None, 0)

    mail = virtually(main)
    assert [work.draw for work in mail.work] == [4]
    assert mail.abort == (("train", 3),)


def test_a_bug_ends_the_stage_and_leaves_nobody_waiting():
    async def main():
        loop = coordinator()
        await at_work(loop)
        waiting = asyncio.create_task(loop.next_batch(0))
        loop._groups.prompts = None
        await loop.exchange(report("e", version(0), 2, finished=(whole(0, 0), whole(0, 1))))
        with pytest.raises(StageFailed, match="scoring prompt draw 0 failed: AttributeError"):
            await waiting
        loop = coordinator()
        await at_work(loop)
        loop._machine.sample_finished = None
        waiting = asyncio.create_task(loop.next_batch(0))
        answer = await loop.exchange(report("e", version(0), 2, finished=(whole(0, 0),)))
        with pytest.raises(StageFailed, match="taking in a report of engine e failed: TypeError"):
            await waiting
        return answer.end

    assert virtually(main)


def test_a_group_that_waits_for_an_engine_with_newer_weights_is_not_dropped_meanwhile(tmp_path):
    """After a restart the trainer needs its time to be where the group began."""
    settings = replace(SETTINGS, rule=AdmissionRule(1, 1, 1), no_engine_deadline_s=1e9)

    async def main():
        first = coordinator(tmp_path / "ledger", settings)
        await at_work(first)
        await first.publish(version(1))
        done = (whole(0, 0), whole(0, 1))
        begun = await first.exchange(report("e", version(1), 2, finished=done))
        await first.next_batch(0)
        await first.close()
        second = coordinator(tmp_path / "ledger", settings)
        await second.publish(version(0, attempt=1))
        await asyncio.sleep(10 * settings.group_deadline_s)
        return begun.work, second._groups.open

    work, groups = virtually(main)
    assert [each.draw for each in work] == [2]  # began under version 1
    assert 2 in groups


def test_a_stop_is_heeded_before_batches_that_are_served_again():
    async def main():
        loop = coordinator()
        await at_work(loop)
        batch = await batch_of(loop, 0)
        await loop.stop()
        return batch.step, await loop.next_batch(0)

    assert virtually(main) == (0, None)


def test_a_restarted_coordinator_asks_for_new_segments_where_the_one_before_has(tmp_path):
    async def main():
        first = coordinator(tmp_path / "ledger")
        for step in range(5):
            await first.committed(step)
        asked = first._fleet.journal
        await first.close()
        second = coordinator(tmp_path / "ledger")
        quiet = await second.exchange(report())
        await second.committed(5)
        return asked, quiet.journal, (await second.exchange(report())).journal

    before, joined, after = virtually(main)
    assert before < joined < after


def test_an_engine_that_only_joins_and_takes_no_weights_is_given_up_too():
    settings = replace(SETTINGS, num_steps=100)

    async def main():
        loop = coordinator(settings=settings)
        await loop.publish(version(0))
        received = 0
        for step in range(1, 40):
            answer = await loop.exchange(report("e", None, received))
            if answer.end:
                break
            received = max(received, answer.number)
            await asyncio.sleep(9)
            await loop.publish(version(step))
            await asyncio.sleep(1)
        return loop.lost_engines()

    assert "waited 12" in virtually(main)["e"]
