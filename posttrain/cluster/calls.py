"""Calls to other processes: every one has a deadline, and every failure comes back as one of our
errors.
"""

from __future__ import annotations

import asyncio
from typing import Any

import ray
from ray.exceptions import (
    GetTimeoutError,
    RayActorError,
    RayError,
    RayTaskError,
    TaskCancelledError,
)

from posttrain.errors import (
    DeadlineExceeded,
    Interrupted,
    PosttrainError,
    ProcessDied,
    StageFailed,
)


def get(reference: Any, deadline_s: float, who: str) -> Any:
    """Block for an answer. `who` reads like "engine 0 to start" and ends up in the error.

    Raises the PosttrainError that the other side raised, DeadlineExceeded, or StageFailed.
    """
    try:
        return ray.get(reference, timeout=deadline_s)
    except GetTimeoutError as error:
        raise waited_too_long(deadline_s, who) from error
    except RayError as error:
        raise ours(error, who) from error


async def answer(reference: Any, deadline_s: float, who: str) -> Any:
    """The same for code on an event loop."""
    try:
        return await asyncio.wait_for(reference, deadline_s)
    except TimeoutError as error:
        raise waited_too_long(deadline_s, who) from error
    except RayError as error:
        raise ours(error, who) from error


def waited_too_long(deadline_s: float, who: str) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"waited {deadline_s:.0f} s for {who}",
        help="its log is in the run folder's logs/; `posttrain resume` goes on from what is whole",
    )


def ours(error: RayError, who: str) -> PosttrainError:
    """Ray's exception as one of ours: the other side's own error where it raised one of ours."""
    if isinstance(error, RayTaskError):
        cause = error.cause
        if isinstance(cause, PosttrainError):
            return cause
        kind = type(cause).__name__ if cause is not None else "error"
        lines = str(cause if cause is not None else error).strip().splitlines()
        return StageFailed(": ".join((f"waiting for {who}", kind, *lines[-1:])))
    if isinstance(error, RayActorError):
        return ProcessDied(f"waiting for {who}: its process died")
    if isinstance(error, TaskCancelledError):
        return Interrupted(f"waiting for {who} was cancelled")
    return StageFailed(f"waiting for {who}: {error}")
