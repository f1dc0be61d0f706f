"""What to do about a failure: one pure function, so that each kind is decided in one place."""

from __future__ import annotations

from typing import Literal

from posttrain.errors import (
    DeadlineExceeded,
    EngineFailed,
    PosttrainError,
    RewardBroken,
    WeightsDiffer,
)

Verdict = Literal["elsewhere", "again", "drop", "stop"]


def classify(error: BaseException, tries: int, most_tries: int = 2) -> Verdict:
    """elsewhere: another engine takes the work over; again: the same call once more; drop: the
    group is given up and counted; stop: the stage ends with the error.

    `tries` counts the attempts so far, this one included.

    Example: classify(RewardBroken("..."), tries=1) -> "drop": its worker has tried again already
    """
    if isinstance(error, EngineFailed | WeightsDiffer):
        return "elsewhere" if tries < most_tries else "stop"
    if isinstance(error, RewardBroken):
        return "drop"
    if isinstance(error, DeadlineExceeded):
        return "again" if tries < most_tries else "drop"
    if isinstance(error, PosttrainError):
        return "stop"
    return "stop"  # a bug of ours: waiting would hide it
