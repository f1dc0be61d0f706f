"""Running a program where it can harm nothing, and reading what it says for as long as it may.

    run_python(program) --> a box --program in a memory file--> stdout, stderr, exit status

A box is one process to us. It ends with the program, is killed with all it started when its time is
over or it says too much, and dies with this process, however that ends.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import cache
from typing import Any

from posttrain.errors import NoSandbox, RewardBroken
from posttrain.reward.sandbox.launchers import LAUNCHERS, bare
from posttrain.reward.sandbox.limits import Limits, Outcome

_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/box", "TMPDIR": "/box"}
_TRIAL_LIMITS = Limits(wall_s=20.0)
_TRIAL = """
import os, random, time
try:
    for _ in range(8):
        if os.fork() == 0:
            time.sleep(20)
except BlockingIOError:
    print('held', flush=True)
os._exit(0)
"""
_LAST_WORDS_S = 2.0  # for the pipes of killed processes to close


def run_python(
    program: str,
    *,
    limits: Limits | None = None,
    stdin: str = "",
    allow_unsandboxed: bool = False,
    launcher: str = "",
) -> Outcome:
    """Run a program in a box and wait for it. `launcher`: one of `launchers()`, "" for the best.

    Raises NoSandbox where none works, unless `allow_unsandboxed`: then only limits hold it. Raises
    RewardBroken where the box does not get as far as the program.
    """
    limits = limits or Limits()
    name = launcher or choose(allow_unsandboxed)
    with Box(program, limits, name, stdin=stdin.encode(), listen=True) as box:
        outcome = box.outcome(limits.wall_s)
        if not box.has_begun():
            raise not_begun(outcome)
        return outcome


def not_begun(outcome: Outcome) -> RewardBroken:
    """What to raise where the box itself failed: the program is not to blame."""
    last = "".join(outcome.stderr.strip().splitlines()[-1:])
    return RewardBroken(
        f"the sandbox ({outcome.launcher}) did not start within {outcome.seconds:.1f} s: {last}",
        help="a machine with too much to do needs a higher time limit",
    )


def choose(allow_unsandboxed: bool) -> str:
    """The best launcher that works here. Raises NoSandbox."""
    found = available()
    if found is None and not allow_unsandboxed:
        raise NoSandbox(
            f"programs cannot be run safely here ({'; '.join(f'{n}: {e}' for n, e in _trials())})",
            help="install bubblewrap, allow user namespaces (containers: --privileged or a seccomp "
            "profile that has them), or set allow_unsandboxed: true and trust every answer",
        )
    return found or "none"


def available() -> str | None:
    """The best launcher that works here, found out by running a program; None without one."""
    return next(iter(launchers()), None)


def launchers() -> list[str]:
    """All launchers that work here, best first."""
    return [name for name, trouble in _trials() if not trouble]


@cache
def _trials() -> list[tuple[str, str]]:
    return [(name, _trial(name)) for name in LAUNCHERS]


def _trial(name: str) -> str:
    """What keeps a launcher from working; nothing where it works.

    A box has to hold a library's module, and no more processes than it is allowed: for one user,
    a kernel's root in a namespace below its own, no such limit holds.
    """
    try:
        outcome = run_python(_TRIAL, limits=_TRIAL_LIMITS, launcher=name)
    except OSError as error:
        return f"does not start: {error.strerror}"
    except RewardBroken as error:
        return error.message
    if outcome.stdout == "held\n":
        return ""
    return "does not limit processes" if outcome.exit_code == 0 else outcome.stderr[-100:].strip()


class Box:
    """One program under way. Leaving it as a context kills what is left of it."""

    def __init__(
        self,
        program: str,
        limits: Limits,
        launcher: str,
        *,
        stdin: bytes = b"",
        listen: bool = False,
        keep: Sequence[int] = (),
    ) -> None:
        self.launcher = launcher
        self._most_output = limits.output_bytes
        self._is_killed = False
        self._started = time.monotonic()
        self._selector = selectors.DefaultSelector()
        self._heard: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        output = subprocess.PIPE if listen else subprocess.DEVNULL
        # Never empty: what has been read of it says whether the program has begun.
        self._text = _memory_file(f"{program}\n".encode("utf-8", "replace"))
        with ExitStack() as files:
            self._folder = None if launcher in LAUNCHERS else tempfile.TemporaryDirectory()
            given = files.enter_context(_memory_file(stdin)) if stdin else subprocess.DEVNULL
            build = LAUNCHERS.get(launcher, bare)
            self._process: subprocess.Popen[bytes] = subprocess.Popen(
                build(limits, self._text.fileno(), keep),
                stdin=given,
                stdout=output,
                stderr=output,
                env=_ENVIRONMENT,
                cwd=self._folder.name if self._folder else "/",
                pass_fds=(self._text.fileno(), *keep),
                start_new_session=True,
            )
        for name in self._heard if listen else ():
            stream = getattr(self._process, name)
            os.set_blocking(stream.fileno(), False)
            self._selector.register(stream, selectors.EVENT_READ, name)

    def outcome(self, wall_s: float) -> Outcome:
        """Wait for the end, no longer than until `wall_s` after the start, and kill it then."""
        killed_by = self._listen(self._started + wall_s)
        code = None if killed_by else self._process.wait()
        seconds = time.monotonic() - self._started
        self.kill()
        stdout, stderr = (bytes(each).decode("utf-8", "replace") for each in self._heard.values())
        return Outcome(code, killed_by, stdout, stderr, seconds, self.launcher)

    def has_begun(self) -> bool:
        """Whether the program itself was started: the box has read it."""
        return os.lseek(self._text.fileno(), 0, os.SEEK_CUR) > 0

    def kill(self) -> None:
        """Kill the program and all it started, and wait until it is gone."""
        if self._process.returncode is None or self._folder is not None:
            with suppress(ProcessLookupError):  # without a box others may be left, or none
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._is_killed = True
        if self._selector.get_map():
            self._listen(time.monotonic() + _LAST_WORDS_S)

    def _listen(self, deadline: float) -> Any:
        """Read until both pipes have closed. What ended it: "", "time" or "output"."""
        while self._selector.get_map():
            left_s = deadline - time.monotonic()
            ready = self._selector.select(left_s) if left_s > 0 else []
            if not ready:
                return "time"
            for key, _ in ready:
                self._read(key.fileobj, key.data)
            if self._num_heard() >= self._most_output and not self._is_killed:
                return "output"
        return self._end_within(deadline)

    def _read(self, stream: Any, name: str) -> None:
        part = os.read(stream.fileno(), 1 << 16)
        self._heard[name] += part[: self._most_output - self._num_heard()]
        if not part:
            self._selector.unregister(stream)

    def _num_heard(self) -> int:
        return sum(map(len, self._heard.values()))

    def _end_within(self, deadline: float) -> Any:
        """A program may close its pipes and go on."""
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return "time"
        return ""

    def __enter__(self) -> Box:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._text.close()
        self._selector.close()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        if self._folder is not None:
            self._folder.cleanup()


def _memory_file(content: bytes) -> Any:
    file = os.fdopen(os.memfd_create("posttrain"), "w+b")
    file.write(content)
    file.seek(0)
    return file
