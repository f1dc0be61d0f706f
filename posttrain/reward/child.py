"""The process in which a reward runs: `python -m posttrain.reward.child REQUEST_FD RESULT_FD`.

Reads requests from the first pipe, writes replies to the second (`posttrain.reward.wire`). Each
answer's score is sent at once and in order, so that the parent knows which one a reward hangs on.

Nothing here imports torch or ray: a child starts in a fraction of a second. It ends when its
request pipe closes, and an alarm set for each answer ends it where a reward hangs and no parent is
left.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Iterator
from typing import Any

from posttrain.config.plugins import load_plugin, plugin_config
from posttrain.errors import RewardBroken
from posttrain.reward.protocol import checked
from posttrain.reward.wire import HEADER, Broken, Setup, frame

ALARM_GRACE_S = 10.0


def main() -> None:
    """Serve one parent until it closes the pipe."""
    requests, results = int(sys.argv[1]), int(sys.argv[2])
    # What a reward prints must neither reach the pipe nor fill the run's log.
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    incoming = _frames(requests)
    setup: Setup = next(incoming)
    try:
        reward = load_plugin("reward", setup.name)
        config = plugin_config(reward, setup.settings)
    except Exception as error:  # boundary: whatever a reward's file raises is told to the parent
        _send(results, f"{type(error).__name__}: {error}")
        return
    _send(results, None)
    for batch in incoming:
        for row, completion in batch:
            signal.setitimer(signal.ITIMER_REAL, setup.timeout_s + ALARM_GRACE_S)
            _send(results, _score(reward, row, completion, config))
            signal.setitimer(signal.ITIMER_REAL, 0.0)


def _score(reward: Any, row: Any, completion: str, config: Any) -> tuple[Any, ...] | Broken:
    try:
        score = checked(reward.score(row, completion, config))
    except RewardBroken as error:
        return Broken(error.message, error.help)
    except Exception as error:  # boundary: a reward that raises is broken, its answer is not wrong
        return Broken(f"score() raised {type(error).__name__}: {error}"[:500], "")
    return score.value, score.passed, dict(score.parts)


def _send(results: int, content: object) -> None:
    left = memoryview(frame(content))
    while left:
        left = left[os.write(results, left) :]


def _frames(requests: int) -> Iterator[Any]:
    with os.fdopen(requests, "rb") as stream:
        while len(header := stream.read(HEADER.size)) == HEADER.size:
            yield pickle.loads(stream.read(HEADER.unpack(header)[0]))


if __name__ == "__main__":
    main()
