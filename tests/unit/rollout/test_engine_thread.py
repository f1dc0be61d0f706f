"""The thread around an engine: order, failure, cancelling; the engine is a counter."""

import asyncio
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from posttrain.errors import EngineFailed
from posttrain.rollout.engine_thread import EngineThread, Request


@dataclass
class Countdown:
    """Finishes a request after as many steps as its prompt says."""

    dies_at_step: int = -1

    def __post_init__(self):
        self.left = {}
        self.steps = 0
        self.closed = False

    def add_request(self, request_id, prompt, params):
        if params == "refused":
            raise ValueError("no such request")
        self.left[request_id] = prompt

    def abort_request(self, request_ids):
        for request_id in request_ids:
            del self.left[request_id]

    def step(self):
        self.steps += 1
        if self.steps == self.dies_at_step:
            raise RuntimeError("out of memory\nsecond line")
        self.left = {request_id: n - 1 for request_id, n in self.left.items()}
        done = [request_id for request_id, n in self.left.items() if n == 0]
        for request_id in done:
            del self.left[request_id]
        return [SimpleNamespace(request_id=request_id, finished=True) for request_id in done]


def run(test, **settings):
    async def main():
        thread = EngineThread("3")
        await thread.start(lambda: Countdown(**settings))
        try:
            return await test(thread)
        finally:
            await thread.stop(lambda engine: None)

    return asyncio.run(main())


def test_outputs_come_in_the_order_asked_when_all_are_done():
    async def test(thread):
        requests = [Request("a", 3, None), Request("b", 1, None)]
        said, outputs = await thread.complete(requests, lambda: "version 4")
        assert said == "version 4"
        assert [output.request_id for output in outputs] == ["a", "b"]
        assert thread.engine.steps == 3

    run(test)


def test_nothing_asked_nothing_waited_for():
    async def test(thread):
        assert await thread.complete([], lambda: 7) == (7, [])
        assert thread.engine.steps == 0

    run(test)


def test_a_function_runs_between_two_steps():
    async def test(thread):
        answer = asyncio.create_task(thread.complete([Request("a", 10**9, None)], lambda: None))
        while await thread.call(lambda engine: engine.steps) == 0:
            await asyncio.sleep(0)

        def look(engine):
            before = engine.steps
            return before, engine.steps

        before, after = await thread.call(look)
        assert before == after > 0
        answer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answer
        assert await thread.call(lambda engine: engine.left) == {}

    run(test)


def test_a_refused_request_takes_its_companions_along_and_no_others():
    async def test(thread):
        other = asyncio.create_task(thread.complete([Request("x", 5, None)], lambda: None))
        bad = [Request("a", 3, None), Request("b", 3, "refused")]
        with pytest.raises(ValueError, match="no such request"):
            await thread.complete(bad, lambda: None)
        assert "a" not in await thread.call(lambda engine: engine.left)
        assert (await other)[1][0].request_id == "x"

    run(test)


def test_a_step_that_raises_fails_everything_now_and_later():
    async def test(thread):
        message = "engine 3 died in a step: RuntimeError: out of memory$"
        with pytest.raises(EngineFailed, match=message):
            await thread.complete([Request("a", 5, None)], lambda: None)
        with pytest.raises(EngineFailed, match=message):
            await thread.call(lambda engine: None)

    run(test, dies_at_step=2)


def test_stopping_fails_what_is_under_way_and_runs_the_last_function():
    async def main():
        thread = EngineThread("3")
        await thread.start(Countdown)
        engine = thread.engine
        answer = asyncio.create_task(thread.complete([Request("a", 10**9, None)], lambda: None))
        await asyncio.sleep(0.01)
        await thread.stop(lambda engine: setattr(engine, "closed", True))
        assert engine.closed
        with pytest.raises(EngineFailed, match="engine 3 was shut down"):
            await answer
        await thread.stop(lambda engine: None)  # a second time does nothing

    asyncio.run(main())


def test_a_build_that_fails_is_told():
    async def main():
        thread = EngineThread("3")

        def build():
            raise OSError("no weights")

        with pytest.raises(OSError, match="no weights"):
            await thread.start(build)
        await thread.stop(lambda engine: None)

    asyncio.run(main())
