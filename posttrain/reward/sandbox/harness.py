"""The side of a judgement that is trusted: runs the tests, asks the candidate, counts.

In a box of its own, for tests are a data set's code. What the tests call is a stand-in that asks
the candidate's process; what comes back is plain data built here (see `codec`). The verdict goes
out through a descriptor that the candidate never had. Runs as text.
"""

from __future__ import annotations

import builtins
import os
import signal
import time

from posttrain.reward.sandbox.codec import Malformed, decode, encode, receive, send

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    # Code that runs first, with the names known that the candidate defines, which stand before
    # whatever else is called so; the tests; those names; a second name for the first of them.
    Tests = tuple[str, list[str], list[str], str]


class OutOfTime(Exception):
    """The candidate's time is over."""


class NotPlain(Exception):
    """A test looks into something that is not plain data."""


class Raised(Exception):
    """The candidate raised something of its own making, or something that must not be repeated."""


class Gone(Exception):
    """The candidate's process has ended, or speaks nonsense."""


class Unsendable(Exception):
    """The tests hand over something that cannot be sent: their fault, not the candidate's."""


class Candidate:
    """The process that runs the solution, asked one question at a time."""

    def __init__(self, channel: int) -> None:
        self.channel = channel
        self.lost = ""  # why it cannot be asked any more
        self.unsendable = ""

    def ask(self, *question: Any) -> tuple[Any, ...]:
        """("value", x), ("missing",) or ("stop",). Raises what the candidate raised, or Gone."""
        try:
            content = encode(question, self._number_of)
        except (Unsendable, RecursionError) as error:
            self.unsendable = self.unsendable or str(error)
            raise
        if self.lost:
            raise Gone(self.lost)
        try:
            send(self.channel, content)
        except BrokenPipeError as error:
            self.lost = "its process ended"
            raise Gone(self.lost) from error
        return self.hear()

    def hear(self) -> tuple[Any, ...]:
        try:
            content = receive(self.channel)
            answer = None if content is None else decode(content, lambda n: Remote(self, n))
        except (Malformed, RecursionError, MemoryError, OverflowError, OSError) as error:
            answer, self.lost = None, f"no plain data: {error}"
        if not isinstance(answer, tuple) or not answer:
            self.lost = self.lost or "its process ended"
            raise Gone(self.lost)
        if answer[0] == "error" and len(answer) == 4:
            raise _exception(*map(str, answer[1:]))
        if answer[0] in ("value", "missing", "stop", "hello") and len(answer) <= 2:
            return answer
        self.lost = "no answer but nonsense"
        raise Gone(self.lost)

    def value(self, *question: Any) -> Any:
        answer = self.ask(*question)
        return answer[1] if len(answer) == 2 else None

    def _number_of(self, value: Any) -> int:
        if type(value) is not Remote:
            raise Unsendable(f"the tests pass a {type(value).__name__}, which is no plain data")
        return object.__getattribute__(value, "_number")


class Remote:
    """Something in the candidate's process. May be called, given back, iterated; not compared."""

    _candidate: Candidate
    _number: int

    def __init__(self, candidate: Candidate, number: int) -> None:
        object.__setattr__(self, "_candidate", candidate)
        object.__setattr__(self, "_number", number)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._candidate.value("call", self, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._candidate.value("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._candidate.value("set", self, name, value)

    def __iter__(self) -> Iterator[Any]:
        iterator = self._candidate.value("iterate", self)
        while (answer := self._candidate.ask("next", iterator))[0] == "value":
            yield answer[1]

    def _refuse(self, *_: Any) -> Any:
        raise NotPlain("the answer is an object, not plain data")

    __eq__ = __ne__ = __bool__ = __hash__ = _refuse


def _exception(kind: str, name: str, message: str) -> Exception:
    """As the candidate raised it, where that is an ordinary built-in exception."""
    found: Any = getattr(builtins, kind, None)
    ordinary = isinstance(found, type) and issubclass(found, Exception)
    if name != kind or not ordinary or issubclass(found, (StopIteration, StopAsyncIteration)):
        return Raised(f"{name}: {message}")
    try:
        exception: Exception = found(message)
    except TypeError:  # UnicodeError and its like want more than a message
        return Raised(f"{name}: {message}")
    return exception


class Tally:
    """What came of the asserts. `broken`: the tests themselves do not run."""

    def __init__(self) -> None:
        self.passed = self.failed = 0
        self.reason = self.broken = ""

    def right(self) -> None:
        self.passed += 1

    def wrong(self, what: str, error: Exception) -> None:
        self.failed += 1
        if not self.reason:
            told = str(error)[:150]
            name = type(error).__name__ + (f": {told}" if told else "")
            self.reason = what if type(error) is AssertionError else f"{what} ({name})"


def judge(channel: int, tests: Tests, until: float, least_s: float) -> None:
    """Run tests and write the verdict to standard output before the clock says `until`.

    least_s: what a candidate must have had of that time before it can be blamed for being slow.
    """
    verdict = os.dup(1)
    os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
    tally, candidate = Tally(), Candidate(channel)
    try:
        candidate.hear()  # "hello": before any of its code runs
    except Gone:
        _tell(verdict, tally, "the candidate's process did not start")
        return
    left_s = until - time.monotonic()
    if left_s < least_s:
        _tell(verdict, tally, "the sandbox took most of the time there was to start")
        return
    os.write(verdict, b"started\n")

    def out_of_time(*_: object) -> None:
        candidate.lost = candidate.lost or "out of time"
        raise OutOfTime("out of time")

    signal.signal(signal.SIGALRM, out_of_time)
    signal.setitimer(signal.ITIMER_REAL, left_s, 0.05)  # again and again: tests may catch it
    try:
        _run(candidate, tally, *tests)
    except OutOfTime:
        candidate.lost = candidate.lost or "out of time"
    signal.setitimer(signal.ITIMER_REAL, 0)
    if candidate.lost:
        tally.failed += not tally.failed
        tally.reason = tally.reason or candidate.lost
    _tell(verdict, tally, candidate.unsendable or tally.broken)


def _run(
    candidate: Candidate, tally: Tally, setup: str, tests: list[str], names: list[str], also: str
) -> None:
    space: dict[str, Any] = {"__name__": "tests", "_right_": tally.right, "_wrong_": tally.wrong}
    try:
        candidate.hear()
    except Exception as error:  # boundary: the solution does not even run
        tally.wrong("the code does not run", error)
        return
    remote: dict[str, Any] = {}
    for name in names:
        answer = candidate.ask("name", name)
        if answer[0] != "value" or len(answer) != 2:
            tally.wrong(f"the code has no `{name}`", AssertionError())
            return
        remote[name] = answer[1]
    if also:
        remote[also] = remote[names[0]]
    for what, text in (("setup", setup), *((f"test {n + 1}", t) for n, t in enumerate(tests))):
        try:
            code = compile(text, what, "exec")
        except SyntaxError as error:
            tally.broken = f"{what} of the row is not Python: {error}"
            return
        space.update(remote)
        try:
            exec(code, space)
        except Exception as error:  # boundary: outside of an assert, in the candidate or the test
            tally.wrong(what, error)


def _tell(verdict: int, tally: Tally, broken: str) -> None:
    reason = " ".join((broken or tally.reason).split())[:280]
    line = f"{'broken' if broken else 'judged'} {tally.passed} {tally.failed} {reason}\n"
    os.write(verdict, line.encode("utf-8", "replace"))
