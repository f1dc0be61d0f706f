"""The rollout worker on the real vLLM: what lies in the journal, against transformers as the truth.

One engine for the file; its versions are two tiny models in turn.
"""

from __future__ import annotations

import asyncio

import pytest

from posttrain.rollout.journal import JournalWriter, read_rollout, scan
from posttrain.rollout.samples import Partial, SampleTask
from posttrain.rollout.worker import RolloutWorker, WorkerSettings
from posttrain.types import Directive, Rollout, Sampling, Work

torch = pytest.importorskip("torch")
pytest.importorskip("vllm")

from tiny_engine import CONTEXT, Bench, HalfWay, furthest, prompt, true_logprobs  # noqa: E402


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("engine"))
    yield bench
    bench.close()


class Desk:
    """A coordinator: hands mail out, keeps what it is told."""

    def __init__(self) -> None:
        self.mail: list[Directive] = []
        self.finished = []
        self.failed = []
        self.syncs = []
        self.acknowledged = None
        self._calls = 0
        self._news = asyncio.Event()

    def send(self, **directive) -> None:
        self.mail.append(Directive(number=self._calls + len(self.mail) + 1, **directive))
        self._news.set()

    async def exchange(self, report):
        self.finished += report.finished
        self.failed += report.failed
        self.syncs += [report.sync] if report.sync else []
        self.acknowledged = report.acknowledged
        self._calls += 1
        call = self._calls
        self._news.set()
        while not self.mail and self._calls == call:
            self._news.clear()
            await self._news.wait()
        return self.mail.pop(0) if self._calls == call else Directive()

    async def until(self, what):
        async with asyncio.timeout(60):
            while not what():
                await asyncio.sleep(0.005)


def serve(bench, desk, folder, process="p", **settings):
    worker = RolloutWorker(
        bench.engine,
        desk,
        JournalWriter(folder, "0", process),
        name="0",
        process=process,
        capacity=256,
        settings=WorkerSettings(**settings),
    )
    return asyncio.create_task(worker.serve())


def work(number: int, num_samples: int, sampling: Sampling, look_in=()) -> Work:
    samples = tuple(range(num_samples))
    return Work("train", number, samples, prompt(20, number), sampling, tuple(look_in), 99)


def rollouts_of(desk) -> dict[tuple[int, int], Rollout]:
    return {
        (told.draw, told.sample): read_rollout(
            told.ref, str(told.draw), prompt(20, told.draw).token_ids
        )
        for told in desk.finished
    }


def require_true(bench, rollout: Rollout) -> None:
    """Every token's log-prob is that of the model of the version which the token carries."""
    assert list(rollout.versions) == sorted(rollout.versions)
    for version in set(rollout.versions):
        truth = true_logprobs(bench.model_of(version), rollout)
        places = [i for i, each in enumerate(rollout.versions) if each == version]
        ours = [rollout.logprobs[i] for i in places]
        assert furthest(ours, [truth[i] for i in places]) <= 1e-4


def test_the_journal_holds_what_generate_returns_to_the_bit(bench, tmp_path):
    sampling = Sampling(40, 1.0, seed=17)

    async def run():
        desk = Desk()
        serving = serve(bench, desk, tmp_path, journal_every_tokens=8, journal_check_s=0.01)
        desk.send(work=tuple(work(number, 8, sampling) for number in range(16)))
        await desk.until(lambda: len(desk.finished) == 128)
        desk.send(end=True)
        await serving
        whole = [await bench.engine.generate(str(i), prompt(20, i), 8, sampling) for i in range(16)]
        return desk, {(int(r.group_id), r.sample): r for _, rollouts in whole for r in rollouts}

    desk, expected = bench.run(run())
    assert rollouts_of(desk) == expected
    assert {told.start_version for told in desk.finished} == {bench.version}
    assert not desk.failed


def test_weights_swapped_while_samples_run(bench, tmp_path):
    async def run():
        desk = Desk()
        serving = serve(bench, desk, tmp_path)
        desk.send(weights=bench.publish(model=(bench.version + 1) % 2))
        await desk.until(lambda: desk.syncs)
        with HalfWay(bench.engine, 48) as half_way:
            desk.send(work=tuple(work(number, 4, Sampling(90, seed=5)) for number in range(12)))
            await half_way.there()
            desk.send(weights=bench.publish(model=(bench.version + 1) % 2))
            await desk.until(lambda: len(desk.syncs) == 2)
        await desk.until(lambda: len(desk.finished) == 48)
        desk.send(end=True)
        await serving
        return desk

    desk = bench.run(run())
    assert desk.acknowledged.version == bench.version
    assert [sync.version for sync in desk.syncs] == [bench.version - 1, bench.version]
    both = {bench.version - 1, bench.version}
    rollouts = rollouts_of(desk).values()
    changed = [rollout for rollout in rollouts if set(rollout.versions) == both]
    assert len(changed) > 24  # the others had ended before
    for rollout in rollouts:
        require_true(bench, rollout)
    for rollout in changed:
        first = rollout.versions.index(bench.version)
        old = true_logprobs(bench.model_of(bench.version - 1), rollout)
        assert furthest(rollout.logprobs[first:], old[first:]) > 0.1


def test_a_dead_workers_samples_go_on_from_its_journal(bench, tmp_path):
    sampling = Sampling(90, seed=6)

    async def run():
        first = Desk()
        begun = bench.version
        serving = serve(bench, first, tmp_path, "a", journal_every_tokens=4, journal_check_s=0.005)
        with HalfWay(bench.engine, 32):
            first.send(work=tuple(work(number, 4, sampling) for number in range(8)))
            (path,) = tmp_path.iterdir()
            await first.until(lambda: len(scan(path).partial) >= 16)
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
        left = scan(path)
        second = Desk()
        serving = serve(bench, second, tmp_path, "b")
        second.send(weights=bench.publish(model=(bench.version + 1) % 2))
        await second.until(lambda: second.syncs)
        second.send(work=tuple(work(number, 4, sampling, [str(path)]) for number in range(8)))
        await second.until(lambda: len(second.finished) == 32)
        second.send(end=True)
        await serving
        return begun, left, second

    begun, left, desk = bench.run(run())
    rollouts = rollouts_of(desk)
    assert len(left.partial) >= 16
    assert len(rollouts) == 32
    told = {(each.draw, each.sample): each for each in desk.finished}
    for (_, draw, sample), partial in left.partial.items():
        rollout, given = rollouts[(draw, sample)], len(partial.token_ids)
        assert told[(draw, sample)].continued_tokens == given >= 4
        assert told[(draw, sample)].start_version == begun
        assert rollout.token_ids[:given] == partial.token_ids
        assert rollout.logprobs[:given] == partial.logprobs
        assert set(rollout.versions[:given]) == {begun}
        assert set(rollout.versions[given:]) == {bench.version}
        assert rollout.finish == ("stop" if rollout.token_ids[-1] == 1 else "length")
        assert len(rollout.token_ids) <= 90
    for rollout in rollouts.values():
        require_true(bench, rollout)


def test_128_seeded_continuations_of_long_prefixes_survive(bench):
    # 128 x 110 tokens exceed what one step takes (8,192): requests wait for the next step, and none
    # is split over two, which would end vLLM's CPU engine.
    async def run():
        tasks = []
        for number in range(128):
            tokens = prompt(90, number).token_ids
            prefix = Partial(tokens, (-1.0,) * 90, (bench.version,) * 90, bench.version)
            sampling = Sampling(100, 1.0, seed=number)
            tasks.append(SampleTask(("train", number, 0), prompt(20, number), sampling, prefix))
        bench.engine.submit(tasks)
        answers = []
        while len(answers) < 128:
            answers += await bench.engine.finished()
        return answers

    for turn in range(2):
        answers = bench.run(run())
        if turn == 0:
            first = {answer.task.key: answer.rollout for answer in answers}
    assert {answer.task.key: answer.rollout for answer in answers} == first  # seeded: the same
    for answer in answers[:16]:
        truth = true_logprobs(bench.model_of(bench.version), answer.rollout)
        assert answer.rollout.logprobs[:90] == (-1.0,) * 90
        assert furthest(answer.rollout.logprobs[90:], truth[90:]) <= 1e-4


def test_a_prompt_without_room_is_answered_with_the_reason(bench, tmp_path):
    async def run():
        desk = Desk()
        serving = serve(bench, desk, tmp_path)
        long = Work("train", 1, (0, 1), prompt(CONTEXT), Sampling(16))
        desk.send(work=(long, work(2, 2, Sampling(16))))
        await desk.until(lambda: len(desk.finished) == len(desk.failed) == 2)
        desk.send(end=True)
        await serving
        return desk

    desk = bench.run(run())
    assert {told.draw for told in desk.finished} == {2}
    assert {each.reason for each in desk.failed} == {
        "128 tokens, context is 128 with 16 kept for the answer"
    }


def test_aborted_samples_leave_the_engine(bench, tmp_path):
    async def run():
        desk = Desk()
        serving = serve(bench, desk, tmp_path)
        with HalfWay(bench.engine, 32) as half_way:
            desk.send(work=(work(1, 32, Sampling(100)),))
            await half_way.there()
            desk.send(abort=(("train", 1),))
            while (await bench.engine.stats())["running"] > 0:
                await asyncio.sleep(0.01)
        assert not await bench.engine.growth({}, 1)
        desk.send(end=True)
        await serving
        return desk

    assert len(bench.run(run()).finished) < 32
