"""Scoring in processes that can be killed.

A reward may hang, raise or return nonsense. It runs in a child process; the parent waits for each
answer no longer than its time limit, kills a child that takes longer and starts another. An answer
whose scoring failed is tried once more; failing again it comes back as RewardBroken, never as 0.

    RewardPool.score --batch of (row, answer)--> child --one frame per answer--> RewardPool.score

The parent blocks on the result pipe, with a deadline that moves on with every answer. A child
blocks on the request pipe and ends when it closes, so none outlives its parent, however that dies.
"""

from __future__ import annotations

import os
import pickle
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from posttrain.config.answers import PROCESS_MEMORY_MB
from posttrain.config.plugins import is_file_name
from posttrain.errors import PosttrainError, RewardBroken
from posttrain.reward.wire import HEADER, Broken, Ready, Setup, frame
from posttrain.types import Score

START_TIMEOUT_S = 60.0
STARTS = 3  # one after the other; a process may be killed from outside before it is ready
MOST_TOGETHER = 256  # answers that a reward is given at once, where it scores them side by side
GRACE_S = 2.0
_RETRIES = 1

Outcome = Score | RewardBroken


class RewardPool:
    """Scores answers with one reward, in `workers` killable processes.

    `name` and `settings` are those of the reward plug-in; `timeout_s` is the limit for one answer,
    `memory_mb` that of a process. Children start on first use. Not for use by several threads at
    once. Close it, or use `with`.
    """

    def __init__(
        self,
        name: str,
        settings: Mapping[str, Any],
        timeout_s: float,
        workers: int = 1,
        memory_mb: int = PROCESS_MEMORY_MB,
    ) -> None:
        if is_file_name(name):
            name = os.path.abspath(os.path.expanduser(name))
        setup = Setup(name, dict(settings), timeout_s, memory_mb)
        self._children = [_Child(setup) for _ in range(workers)]
        self._threads = ThreadPoolExecutor(workers, "reward") if workers > 1 else None

    def score(self, rows: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> list[Outcome]:
        """One Score or RewardBroken per answer, in order.

        Raises RewardBroken where the reward itself cannot be loaded or its process does not start.
        """
        tasks = [(dict(row), answer) for row, answer in zip(rows, completions, strict=True)]
        if self._threads is None or len(tasks) < 2:
            return self._children[0].score(tasks)
        size = -(-len(tasks) // len(self._children))
        parts = [tasks[start : start + size] for start in range(0, len(tasks), size)]
        scored = self._threads.map(lambda child, part: child.score(part), self._children, parts)
        return [outcome for part in scored for outcome in part]

    def close(self) -> None:
        """End all children. The pool may be used again; they would be started anew."""
        for child in self._children:
            child.stop()
        if self._threads is not None:
            self._threads.shutdown()

    def __enter__(self) -> RewardPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Hung(Exception):
    """The child sent nothing for too long, or died."""


class _Died(_Hung):
    """The child has ended."""


class _Child:
    """One process and its two pipes; started when needed, replaced when it hangs or dies."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._process: subprocess.Popen[bytes] | None = None
        self._requests = self._results = -1
        self._buffer = bytearray()
        self._together, self._parts = False, 1
        self._lock = threading.Lock()

    def score(self, tasks: list[tuple[dict[str, Any], str]]) -> list[Outcome]:
        outcomes: list[Outcome | None] = [None] * len(tasks)
        tries = [0] * len(tasks)
        most = MOST_TOGETHER
        with self._lock:
            while waiting := [i for i, outcome in enumerate(outcomes) if _again(outcome, tries[i])]:
                self._start()
                batch = waiting[:most] if self._together else waiting
                silent = self._run(tasks, batch, outcomes, tries)
                # Of many side by side none is blamed: half of them are tried, then half of that.
                most = max(1, len(batch) // 2) if silent else most
                if len(batch) == 1:  # it was to blame, or not; the others are no longer suspicious
                    most = MOST_TOGETHER
        return [outcome for outcome in outcomes if outcome is not None]

    def _run(
        self,
        tasks: list[tuple[dict[str, Any], str]],
        batch: list[int],
        outcomes: list[Outcome | None],
        tries: list[int],
    ) -> bool:
        """One batch: every answer in it gets an outcome, or those up to a death or a silence.

        True where several were scored side by side and nothing at all came of it.
        """
        left = dict.fromkeys(batch)  # in order, and cheap to take from
        # Answers that wait side by side are ended by the child itself, a part at a time.
        limit_s = self._setup.timeout_s
        if self._together:
            limit_s = limit_s * self._parts + GRACE_S
        try:
            self._write(frame([tasks[i] for i in batch]))
            while left:
                place, content = self._receive(limit_s)
                outcomes[batch[place]] = _outcome(content)
                tries[batch[place]] += 1
                del left[batch[place]]
                if isinstance(content, Broken) and content.is_last:
                    self.stop()
                    return False  # the others are asked for anew
        except _Hung as hung:
            self.stop()
            if self._together and len(batch) > 1:
                return len(left) == len(batch)
            hanging = next(iter(left))
            outcomes[hanging] = RewardBroken(
                str(hung), help="see the verifier's file, or timeout_s"
            )
            tries[hanging] += 1
        return False

    def _start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        reply: Any = None
        for _ in range(STARTS):
            self.stop()
            self._launch()
            try:
                self._write(frame(self._setup))
                reply = self._receive(START_TIMEOUT_S)
            except _Died:
                reply = f"its process died as it started, {STARTS} times"
                continue
            except _Hung:
                reply = f"it was not ready within {START_TIMEOUT_S:g} s; its process was killed"
            break
        if isinstance(reply, Ready):
            self._together, self._parts = reply.together, reply.parts
            return
        self.stop()
        raise RewardBroken(
            f"reward `{self._setup.name}` cannot be used: {reply}",
            help="`posttrain reward audit` loads it and scores its examples",
        )

    def _launch(self) -> None:
        request_end, self._requests = os.pipe()
        self._results, result_end = os.pipe()
        ends = (request_end, result_end)
        command = [sys.executable, "-m", "posttrain.reward.child", *map(str, ends)]
        try:
            self._process = subprocess.Popen(
                command,
                pass_fds=ends,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
                start_new_session=True,  # Ctrl-C in the terminal is for the parent to deal with
            )
        finally:
            for end in ends:
                os.close(end)

    def _write(self, content: bytes) -> None:
        left = memoryview(content)
        try:
            while left:
                left = left[os.write(self._requests, left) :]
        except BrokenPipeError as error:
            raise _Died("its process died") from error

    def _receive(self, timeout_s: float) -> Any:
        """The next frame. Raises _Hung after `timeout_s`, or where the child has died."""
        deadline = time.monotonic() + timeout_s
        while (content := self._pop()) is None:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not _readable(self._results, left_s):
                raise _Hung(f"no score within {timeout_s:g} s; its process was killed")
            received = os.read(self._results, 1 << 16)
            if not received:
                raise _Died("its process died while scoring")
            self._buffer += received
        return pickle.loads(content)

    def _pop(self) -> bytes | None:
        if len(self._buffer) < HEADER.size:
            return None
        end = HEADER.size + HEADER.unpack_from(self._buffer)[0]
        if len(self._buffer) < end:
            return None
        content = bytes(self._buffer[HEADER.size : end])
        del self._buffer[:end]
        return content

    def stop(self) -> None:
        """Kill the process and whatever it started; close the pipes."""
        if self._process is not None:
            with suppress(ProcessLookupError):  # it may have ended by itself
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
        for end in (self._requests, self._results):
            if end >= 0:
                os.close(end)
        self._requests = self._results = -1
        self._buffer.clear()


def _again(outcome: Outcome | None, tries: int) -> bool:
    return outcome is None or (isinstance(outcome, PosttrainError) and tries <= _RETRIES)


def _outcome(content: Any) -> Outcome:
    if isinstance(content, Broken):
        return RewardBroken(content.message, help=content.help)
    return Score(*content)


def _readable(descriptor: int, timeout_s: float) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        return bool(selector.select(timeout_s))
