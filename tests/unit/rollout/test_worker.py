"""The worker keeps its promises to a coordinator that is written out here; the engine is a fake."""

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path

from virtual_clock import run_virtually

from posttrain.errors import DeadlineExceeded, EngineFailed, StageFailed, WeightsDiffer, WeightsGone
from posttrain.rollout.fake_engine import FakeEngine, per_token
from posttrain.rollout.journal import JournalWriter, read_rollout, scan
from posttrain.rollout.samples import Answer
from posttrain.rollout.worker import RolloutWorker, WorkerSettings
from posttrain.types import Directive, FailedSample, Prompt, Sampling, WeightVersion, Work

SAMPLING = Sampling(64, seed=4)


def prompt(draw: int) -> Prompt:
    return Prompt(f"test/{draw}", "test", (5, 3, draw), "", {})


def work(
    draw: int, samples=(0, 1), look_in=(), lane="train", sampling=SAMPLING, newest_version=9
) -> Work:
    paths = tuple(look_in)
    return Work(lane, draw, tuple(samples), prompt(draw), sampling, paths, newest_version)


def weights(version: int) -> WeightVersion:
    return WeightVersion(0, version, f"sum {version}", f"/there/{version}")


class Desk:
    """A coordinator: hands mail out, keeps what it is told. `faults` fail the next calls, after
    they were taken in.
    """

    def __init__(self) -> None:
        self.reports = []
        self.mail = []
        self.faults = []
        self.answered = []
        self.lost = []
        self._number = 0
        self._news = asyncio.Event()
        self._polls = 0

    def send(self, **directive) -> None:
        self._number += 1
        self.mail.append(Directive(number=self._number, **directive))
        self._news.set()

    async def exchange(self, report):
        self.reports.append(report)
        self._polls += 1
        poll = self._polls
        self._news.set()  # an older call gives way
        if self.faults:
            self.lost.append(report)
            raise self.faults.pop(0)
        self.answered.append(report)
        while not self.mail and self._polls == poll:
            self._news.clear()
            await self._news.wait()
        if self._polls != poll:
            self._news.set()
            return Directive(number=0)
        return self.mail.pop(0)

    @property
    def finished(self):
        return [each for report in self.reports for each in report.finished]

    @property
    def acknowledged(self):
        return self.reports[-1].acknowledged if self.reports else None

    async def until(self, what, patience_s=5.0):
        async with asyncio.timeout(patience_s):
            while not what():
                await asyncio.sleep(0.002)


class Office:
    """A worker in service of a desk."""

    def __init__(self, folder: Path, engine: FakeEngine, process="p", span=None, **settings):
        self.desk = Desk()
        self.engine = engine
        self.folder = folder
        self.worker = RolloutWorker(
            engine,
            self.desk,
            JournalWriter(folder, engine.name, process),
            name=engine.name,
            process=process,
            capacity=8,
            settings=WorkerSettings(
                **({"journal_check_s": 0.01, "journal_every_tokens": 4} | settings)
            ),
            span=span,
        )

    async def __aenter__(self):
        self.serving = asyncio.create_task(self.worker.serve())
        return self

    async def __aexit__(self, *_):
        self.serving.cancel()
        await asyncio.gather(self.serving, return_exceptions=True)

    async def error(self):
        async with asyncio.timeout(5):
            (error,) = await asyncio.gather(self.serving, return_exceptions=True)
        return error

    def journals(self):
        return sorted(str(path) for path in self.folder.iterdir())


def test_finished_samples_are_those_of_generate_and_lie_in_the_journal(tmp_path):
    async def main():
        async with Office(tmp_path, FakeEngine(latency=per_token(0.0005))) as office:
            desk = office.desk
            desk.send(work=(work(7, range(4)), work(8, [2])))
            await desk.until(lambda: len(desk.finished) == 5)
            _, expected = await office.engine.generate("7", prompt(7), 4, SAMPLING)
            desk.send(end=True)
            assert await office.error() is None
            return desk, expected

    desk, expected = run_virtually(main())
    first = desk.reports[0]
    assert (first.engine, first.process, first.capacity, first.received) == ("0", "p", 8, 0)
    assert (first.acknowledged, first.holds, first.finished) == (None, (), ())
    found = {(each.draw, each.sample): each for each in desk.finished}
    assert sorted(found) == [(7, 0), (7, 1), (7, 2), (7, 3), (8, 2)]
    for rollout in expected:
        told = found[(7, rollout.sample)]
        assert read_rollout(told.ref, "7", prompt(7).token_ids) == rollout
        assert (told.num_tokens, told.continued_tokens) == (len(rollout.token_ids), 0)
        assert told.start_version == 0
    assert desk.reports[-1].received == 1
    assert sum(report.stats.tokens for report in desk.reports) > 0


def test_what_was_not_answered_is_told_again_in_order(tmp_path):
    async def main():
        async with Office(tmp_path, FakeEngine(latency=per_token(0.001)), gather_s=0.0) as office:
            desk = office.desk
            desk.send(work=(work(7, range(8)),))
            await desk.until(lambda: desk.finished)
            desk.faults = [ConnectionError("cut"), StageFailed("gone"), TimeoutError()]
            await desk.until(lambda: len({each.sample for each in desk.finished}) == 8)
            await desk.until(lambda: not desk.faults and len(desk.reports) > len(desk.answered))
            desk.send(work=(work(8, [0]),))
            await desk.until(lambda: any(each.draw == 8 for each in desk.finished))
            return desk

    desk = run_virtually(main())
    arrived = [each for report in desk.answered for each in report.finished if each.draw == 7]
    assert sorted({each.sample for each in arrived}) == list(range(8))
    assert len(desk.finished) > len(arrived)  # some were told more than once
    firsts = list(dict.fromkeys(each.ref.offset for each in arrived))
    assert firsts == sorted(firsts)  # in the order in which they were written down
    assert len(desk.lost) == 3
    cut = next(i for i, report in enumerate(desk.reports) if report is desk.lost[0])
    after = desk.reports[cut + 1]
    assert after.received == 0
    # Everything that it still had to do was named.
    told = {each.sample for each in after.finished} | {key[2] for key in after.holds}
    before = {each.sample for report in desk.reports[:cut] for each in report.finished}
    assert told | before == set(range(8))


def test_a_coordinator_that_comes_back_finds_everything(tmp_path):
    async def main():
        async with Office(tmp_path, FakeEngine(latency=per_token(0.001))) as office:
            desk = office.desk
            desk.send(work=(work(7, range(4)),))
            await desk.until(lambda: office.engine._running == 4)
            desk.faults = [StageFailed("gone")] * 3
            await desk.until(lambda: len(desk.finished) >= 4)
            await desk.until(lambda: not desk.faults)
            await asyncio.sleep(0.5)
            return {each.sample for report in desk.answered for each in report.finished}

    assert run_virtually(main()) == {0, 1, 2, 3}


def test_a_coordinator_that_stays_away_is_named(tmp_path):
    async def main():
        office = Office(tmp_path, FakeEngine(), coordinator_deadline_s=0.25)
        office.desk.faults = [StageFailed("no such actor")] * 100
        async with office:
            return await office.error(), len(office.desk.reports)

    error, calls = run_virtually(main())
    assert isinstance(error, DeadlineExceeded)
    assert str(error) == "engine 0 waited 0 s for the coordinator: no such actor"
    assert calls == 3  # at 0, 0.1 and 0.3 s


def test_news_does_not_wait_for_a_silent_coordinator(tmp_path):
    class Silent(Desk):
        async def exchange(self, report):  # never gives way, never answers without mail
            self.reports.append(report)
            while not self.mail:
                await asyncio.sleep(0.002)
            return self.mail.pop(0)

    async def main():
        office = Office(tmp_path, FakeEngine(latency=per_token(0.002)))
        desk = office.desk = office.worker._courier._coordinator = Silent()
        async with office:
            desk.send(work=(work(7, range(8)),))
            await desk.until(lambda: len({each.sample for each in desk.finished}) == 8)
            desk.send(end=True)
            assert await office.error() is None

    run_virtually(main())


def test_weights_are_taken_while_samples_run(tmp_path):
    spans = []

    async def main():
        engine = FakeEngine(latency=per_token(0.004), update_s=0.02)
        office = Office(tmp_path, engine, span=lambda *span: spans.append(span))
        office.worker._spans._clock = asyncio.get_running_loop().time
        async with office:
            desk = office.desk
            desk.send(weights=weights(3))
            await desk.until(lambda: desk.acknowledged == weights(3))
            desk.send(work=(work(7, range(4)),))
            await asyncio.sleep(0.06)
            desk.send(weights=weights(4))
            desk.send(weights=weights(4))  # once is enough
            await desk.until(lambda: len(desk.finished) == 4)
            desk.send(end=True)
            assert await office.error() is None
            return desk

    desk = run_virtually(main())
    syncs = [report.sync for report in desk.reports if report.sync]
    assert [(sync.version, sync.checksums_agree) for sync in syncs] == [(3, True), (4, True)]
    rollouts = [read_rollout(each.ref, "7", prompt(7).token_ids) for each in desk.finished]
    assert any(set(rollout.versions) == {3, 4} for rollout in rollouts)
    assert {each.start_version for each in desk.finished} == {3}
    assert {span[0] for span in spans} == {"engine 0"}
    assert [span[1] for span in spans] == ["swap v3", "generate", "swap v4", "generate"]
    assert all(span[2] < span[3] for span in spans)
    ends = [span[3] for span in spans]
    assert all(span[2] >= end for span, end in zip(spans[1:], ends[:-1], strict=True))


def test_weights_that_have_gone_are_asked_for_again(tmp_path):
    class Late(FakeEngine):
        async def update_weights(self, version):
            if version.version == 3:
                raise WeightsGone("version 3 is not there any more")
            return await FakeEngine.update_weights(self, version)

    async def main():
        async with Office(tmp_path, Late()) as office:
            desk = office.desk
            desk.send(weights=weights(3))
            await desk.until(lambda: len(desk.reports) >= 2)
            assert desk.acknowledged is None
            desk.send(weights=weights(4))
            await desk.until(lambda: desk.acknowledged == weights(4))
            return [report.sync.version for report in desk.reports if report.sync]

    assert run_virtually(main()) == [4]


def test_the_same_weights_are_taken_again_from_another_place_and_from_the_same_one_not(tmp_path):
    async def main():
        async with Office(tmp_path, FakeEngine()) as office:
            desk, again = office.desk, replace(weights(3), location="/elsewhere/3")
            for sent in (weights(3), again, again, weights(2)):
                desk.send(weights=sent)
                await asyncio.sleep(10.0)
            return [report.sync.version for report in desk.reports if report.sync], desk

    taken, desk = run_virtually(main())
    assert taken == [3, 3]
    assert desk.acknowledged.location == "/elsewhere/3"


def test_wrong_weights_and_a_dead_engine_end_the_service(tmp_path):
    async def wrong():
        async with Office(tmp_path, FakeEngine(faulty_checksums=1)) as office:
            office.desk.send(weights=weights(3))
            return await office.error()

    async def dead():
        async with Office(tmp_path, FakeEngine(latency=per_token(1.0))) as office:
            office.desk.send(work=(work(7),))
            await office.desk.until(lambda: office.engine._running == 2)
            office.engine.die()
            return await office.error()

    assert isinstance(run_virtually(wrong()), WeightsDiffer)
    assert isinstance(run_virtually(dead()), EngineFailed)


async def half_done(tmp_path):
    """An engine that has died under version 3, with some of eight samples finished."""
    async with Office(tmp_path, FakeEngine(latency=per_token(0.005)), "one") as first:
        first.desk.send(weights=weights(3))
        await first.desk.until(lambda: first.desk.acknowledged is not None)
        first.desk.send(work=(work(7, range(8)),))
        await first.desk.until(lambda: len(first.desk.finished) >= 2)
    return first


def test_a_dead_workers_samples_go_on_elsewhere(tmp_path):
    async def main():
        first = await half_done(tmp_path)
        (left,) = [scan(path) for path in first.journals()]
        second = Office(tmp_path, FakeEngine("1", latency=per_token(0.0001)), "two")
        second.engine.version = 5
        paths = [*first.journals()[:1], str(tmp_path / "removed.journal")]
        async with second:
            desk = second.desk
            desk.send(work=(work(7, range(8), look_in=paths),))
            await desk.until(lambda: len(desk.finished) == 8)
        return left, {each.sample: each for each in desk.finished}, first.desk.finished

    left, finished, before = run_virtually(main())
    assert len(left.partial) >= 1
    for each in before:
        again = finished[each.sample]
        assert (again.ref, again.start_version) == (each.ref, 3)
        assert again.continued_tokens == again.num_tokens == each.num_tokens
    for (_, _, sample), partial in left.partial.items():
        told = finished[sample]
        rollout = read_rollout(told.ref, "7", prompt(7).token_ids)
        given = len(partial.token_ids)
        assert told.continued_tokens == given > 0
        assert told.start_version == 3
        assert told.num_tokens == len(rollout.token_ids) > given
        assert rollout.token_ids[:given] == partial.token_ids
        assert rollout.logprobs[:given] == partial.logprobs
        assert rollout.versions == (3,) * given + (5,) * (told.num_tokens - given)
        assert len(rollout.token_ids) <= 64
    assert len(finished) == 8


def test_what_was_made_under_weights_that_a_power_cut_undid_is_made_again(tmp_path):
    async def main():
        first = await half_done(tmp_path)
        async with Office(tmp_path, FakeEngine("1", latency=per_token(0.0001)), "two") as second:
            second.engine.version = 2  # training has come to version 2 again
            paths = first.journals()[:1]
            second.desk.send(work=(work(7, range(8), look_in=paths, newest_version=2),))
            await second.desk.until(lambda: len(second.desk.finished) == 8)
        (left,) = [scan(path) for path in paths]
        return left, second.desk.finished

    left, finished = run_virtually(main())
    assert left.finished and left.partial
    for each in finished:
        assert each.continued_tokens == 0
        assert set(read_rollout(each.ref, "7", prompt(7).token_ids).versions) == {2}


def test_a_continuation_is_written_down_whole(tmp_path):
    async def main():
        slow = per_token(0.01)
        async with Office(tmp_path / "a", FakeEngine(latency=slow)) as first:
            first.desk.send(work=(work(7, [0], sampling=Sampling(500, seed=1)),))
            await first.desk.until(lambda: scan(first.journals()[0]).partial)
        (before,) = scan(first.journals()[0]).partial.values()
        async with Office(tmp_path / "b", FakeEngine("1", latency=slow)) as second:
            again = work(7, [0], look_in=first.journals(), sampling=Sampling(500, seed=1))
            second.desk.send(work=(again,))
            await second.desk.until(lambda: scan(second.journals()[0]).partial)
        (after,) = scan(second.journals()[0]).partial.values()
        return before, after

    before, after = run_virtually(main())
    given = len(before.token_ids)
    assert len(after.token_ids) >= given >= 4
    assert after.token_ids[:given] == before.token_ids
    assert after.logprobs[:given] == before.logprobs


def test_a_new_segment_holds_all_unfinished_samples(tmp_path):
    async def main():
        async with Office(tmp_path, FakeEngine(latency=per_token(0.01))) as office:
            desk = office.desk
            desk.send(work=(work(7, range(4), sampling=Sampling(500, seed=2)),))
            await desk.until(lambda: len(scan(office.journals()[0]).partial) == 4)
            desk.send(journal=1)
            await desk.until(lambda: len(office.journals()) == 2)
            await desk.until(lambda: len(scan(office.journals()[1]).partial) == 4)
            desk.send(journal=1)
            await asyncio.sleep(0.05)
            assert len(office.journals()) == 2
            first, second = map(scan, office.journals())
            for key, partial in first.partial.items():
                have = len(partial.token_ids)
                assert second.partial[key].token_ids[:have] == partial.token_ids

    run_virtually(main())


def test_aborted_samples_are_not_heard_of_again(tmp_path):
    def latency(asked, sample, num_tokens):
        return 60.0 if asked.id == "test/7" else 0.5

    async def main():
        async with Office(tmp_path, FakeEngine(latency=latency)) as office:
            desk = office.desk
            desk.send(work=(work(7, range(4)), work(8, range(2)), work(8, [0], lane="probe")))
            await desk.until(lambda: office.engine._running == 7)
            desk.send(abort=(("train", 7), ("train", 99), ("probe", 7)))
            await desk.until(lambda: office.engine._running == 3)
            await desk.until(lambda: len(desk.finished) == 3)
            return desk

    desk = run_virtually(main())
    assert sorted((each.lane, each.draw) for each in desk.finished) == [
        ("probe", 8),
        ("train", 8),
        ("train", 8),
    ]


def test_work_that_comes_twice_is_done_once(tmp_path):
    async def main():
        async with Office(tmp_path, FakeEngine(latency=per_token(0.001))) as office:
            desk = office.desk
            desk.send(work=(work(7),))
            desk.send(work=(work(7, range(3)),))
            await desk.until(lambda: len(desk.finished) == 3)
            desk.send(work=(work(7),))  # a coordinator that has forgotten
            await desk.until(lambda: len(desk.finished) == 5)
            return desk, scan(office.journals()[0])

    desk, contents = run_virtually(main())
    assert Counter(each.sample for each in desk.finished) == {0: 2, 1: 2, 2: 1}
    assert len({each.ref for each in desk.finished}) == len(contents.finished) == 3


def test_a_sample_that_cannot_be_generated_is_given_back_and_nothing_else(tmp_path):
    async def main():
        async with Office(tmp_path, FakeEngine(max_model_len=70)) as office:
            desk = office.desk
            long = replace(work(7), prompt=Prompt("long", "test", (5,) * 40, "", {}))
            desk.send(work=(long, work(8)))
            await desk.until(lambda: len(desk.finished) == 2)
            await desk.until(lambda: any(report.failed for report in desk.reports))
            return [each for report in desk.reports for each in report.failed]

    failed = run_virtually(main())
    assert [(each.lane, each.draw, each.sample) for each in failed] == [
        ("train", 7, 0),
        ("train", 7, 1),
    ]
    assert {each.reason for each in failed} == {"no room"}


def test_the_engine_can_serve_again(tmp_path):
    async def main():
        engine = FakeEngine(latency=per_token(0.002))
        async with Office(tmp_path, engine, "one") as office:
            office.desk.send(work=(work(7, range(4)),))
            await office.desk.until(lambda: office.desk.finished)
            office.desk.send(end=True)
            assert await office.error() is None
        assert not engine._samples
        async with Office(tmp_path, engine, "two") as office:
            office.desk.send(work=(work(7, range(4)),))
            await office.desk.until(lambda: len(office.desk.finished) == 4)
            return {Path(each.ref.path).name for each in office.desk.finished}

    assert run_virtually(main()) == {"0-two-000000.journal"}


def test_a_damaged_journal_of_another_engine_is_named(tmp_path):
    async def main():
        async with Office(tmp_path, FakeEngine(latency=per_token(0.0)), "one") as first:
            first.desk.send(work=(work(7, range(4)),))
            await first.desk.until(lambda: len(first.desk.finished) == 4)
        (path,) = first.journals()
        data = bytearray(Path(path).read_bytes())
        data[20] ^= 1
        Path(path).write_bytes(data)
        async with Office(tmp_path, FakeEngine("1"), "two") as second:
            second.desk.send(work=(work(7, look_in=[path]),))
            return path, await second.error()

    path, error = run_virtually(main())
    assert isinstance(error, StageFailed)
    assert (error.message, error.place) == ("the journal record at byte 0 is damaged", path)


def test_an_answer_that_comes_late_does_not_bring_older_weights_back(tmp_path):
    async def main():
        async with Office(tmp_path, FakeEngine()) as office:
            desk = office.desk
            desk.send(weights=weights(5))
            await desk.until(lambda: desk.acknowledged == weights(5))
            desk.send(weights=weights(4))
            desk.send(work=(work(0),))
            await desk.until(lambda: len(desk.finished) == 2)
            return office.engine.version, desk.acknowledged

    assert run_virtually(main()) == (5, weights(5))


def test_weights_that_a_restarted_trainer_begins_with_again_are_skipped_by_an_engine_ahead(
    tmp_path,
):
    """It was still on its way to the newer ones when it was told; its work began under those."""

    async def main():
        async with Office(tmp_path, FakeEngine(update_s=0.05)) as office:
            desk = office.desk
            desk.send(weights=weights(6))
            await asyncio.sleep(0.02)
            desk.send(weights=WeightVersion(1, 5, "other", "/there/5"))
            await desk.until(lambda: desk.acknowledged == weights(6))
            await asyncio.sleep(0.1)
            ahead = office.engine.version
            desk.send(weights=WeightVersion(1, 6, "other", "/there/6"))
            await desk.until(lambda: desk.acknowledged.attempt == 1)
            return ahead, desk.acknowledged.version

    assert run_virtually(main()) == (6, 6)


def test_a_sample_that_was_given_back_is_not_begun_when_its_work_comes_twice(tmp_path):
    async def main():
        async with Office(tmp_path, FakeEngine(max_model_len=8)) as office:
            desk = office.desk
            given_back = work(0, (0,), sampling=replace(SAMPLING, max_new_tokens=64))
            desk.send(work=(given_back,))
            await desk.until(lambda: _failed(desk))
            office.engine.max_model_len = 1 << 20
            desk.send(work=(given_back,))
            await desk.until(lambda: len(_failed(desk)) == 2)
            return _failed(desk), desk.finished

    failed, finished = run_virtually(main())
    assert failed == [FailedSample("train", 0, 0, "no room")] * 2
    assert finished == []


def test_what_was_written_of_a_sample_that_failed_is_not_the_beginning_of_another_try(tmp_path):
    async def main():
        async with Office(tmp_path, FakeEngine(latency=per_token(0.005))) as office:
            desk, worker = office.desk, office.worker
            desk.send(work=(work(0, (0,)),))
            await desk.until(lambda: worker._written)
            task = next(iter(worker._held.values()))
            await office.engine.abort([task.key])
            worker._take_in([_refusal(task)])
            return dict(worker._written)

    assert run_virtually(main()) == {}


def test_an_answer_is_as_old_as_its_oldest_token(tmp_path):
    """Another engine has begun it under version 4; this one has version 3."""

    async def main():
        other = JournalWriter(tmp_path, "9", "q")
        other.progress("train", 0, 0, 0, (7, 7), (-1.0, -1.0), (4, 4), 4)
        async with Office(tmp_path, FakeEngine()) as office:
            desk = office.desk
            desk.send(weights=weights(3))
            await desk.until(lambda: desk.acknowledged == weights(3))
            desk.send(work=(work(0, (0,), look_in=(other.path,)),))
            await desk.until(lambda: desk.finished)
            return desk.finished[0]

    finished = run_virtually(main())
    assert (finished.start_version, finished.continued_tokens) == (3, 2)


def _failed(desk):
    return [each for report in desk.reports for each in report.failed]


def _refusal(task):
    return Answer(task, 0, None, "too long")


def test_the_greedy_sample_of_a_group_takes_the_likeliest_tokens(tmp_path):
    """Twice the same draw with other seeds: the greedy answer alone stays what it was."""

    async def answers(seed: int):
        sampling = replace(SAMPLING, seed=seed)
        folder = tmp_path / str(seed)
        async with Office(folder, FakeEngine(latency=per_token(0.0005))) as office:
            office.desk.send(work=(replace(work(7, range(3), sampling=sampling), greedy_sample=2),))
            await office.desk.until(lambda: len(office.desk.finished) == 3)
            found = {each.sample: each.ref for each in office.desk.finished}
            return {i: read_rollout(ref, "7", (5, 3, 7)).token_ids for i, ref in found.items()}

    first, second = run_virtually(answers(4)), run_virtually(answers(5))
    assert first[2] == second[2]
    assert first[0] != second[0] and first[1] != second[1]
