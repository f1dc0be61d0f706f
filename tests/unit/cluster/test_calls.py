"""Ray's exceptions as ours. Ray is imported, not started."""

from __future__ import annotations

import asyncio
import pickle

import pytest
from ray.exceptions import ActorDiedError, RayActorError, RayTaskError, TaskCancelledError

from posttrain.cluster import calls
from posttrain.cluster.calls import ours
from posttrain.errors import (
    DeadlineExceeded,
    EngineFailed,
    InputError,
    Interrupted,
    PosttrainError,
    Problem,
    ProcessDied,
    RewardBroken,
    StageFailed,
)


def task_error(cause: Exception) -> RayTaskError:
    return RayTaskError("generate", "Traceback ...\nthe last line", cause)


@pytest.mark.parametrize(
    "error",
    [
        EngineFailed("no memory", place="engine 0", help="less kv_cache_mb"),
        RewardBroken("hung", place="rewards/mine.py"),
        InputError([Problem("bad-row", "no JSON", file="rows.jsonl", line=9)]),
    ],
)
def test_an_error_of_ours_comes_back_as_it_was(error: PosttrainError) -> None:
    found = ours(task_error(pickle.loads(pickle.dumps(error))), "engine 0")
    assert type(found) is type(error)
    assert found.problem() == error.problem()


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        (ValueError("no such token"), "waiting for engine 0: ValueError: no such token"),
        (RuntimeError("first\nthe reason\n"), "waiting for engine 0: RuntimeError: the reason"),
        (AssertionError(), "waiting for engine 0: AssertionError"),  # a bare `assert`
        (KeyError("x"), "waiting for engine 0: KeyError: 'x'"),
    ],
)
def test_any_other_error_is_named_with_who_was_waited_for(cause: Exception, message: str) -> None:
    found = ours(task_error(cause), "engine 0")
    assert type(found) is StageFailed
    assert found.message == message


@pytest.mark.parametrize("error", [RayActorError(), ActorDiedError()])
def test_a_dead_process_is_said(error: RayActorError) -> None:
    found = ours(error, "the tracker to open a stage")
    assert type(found) is ProcessDied
    assert found.message == "waiting for the tracker to open a stage: its process died"


def test_what_was_cancelled_was_interrupted() -> None:
    found = ours(TaskCancelledError(), "the suite")
    assert type(found) is Interrupted
    assert found.message == "waiting for the suite was cancelled"


def test_a_wait_that_took_too_long_names_who() -> None:
    with pytest.raises(DeadlineExceeded) as caught:
        asyncio.run(calls.answer(asyncio.sleep(60), 0.01, "engine 1 to answer"))
    assert caught.value.message == "waited 0 s for engine 1 to answer"
    assert caught.value.help.startswith("its log is in the run folder's logs/")


def test_an_answer_on_the_event_loop() -> None:
    async def good() -> int:
        return 7

    async def bad() -> int:
        raise task_error(EngineFailed("gone"))

    assert asyncio.run(calls.answer(good(), 1.0, "engine 0")) == 7
    with pytest.raises(EngineFailed, match="gone"):
        asyncio.run(calls.answer(bad(), 1.0, "engine 0"))
