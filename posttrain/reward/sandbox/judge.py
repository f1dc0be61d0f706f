"""Whether a solution passes tests, found out without believing a word of it.

    candidate's box <--questions and plain data over one socket--> harness's box --verdict--> here

Solution and tests run in two boxes that share nothing but the socket. The solution can therefore
neither read the tests nor say how they went: whatever it does to its own process (leaving it,
changing built-ins, printing), all that counts is what it answers, and that is compared on the other
side, where objects of its making do not arrive.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass

from posttrain.errors import RewardBroken
from posttrain.reward.sandbox.box import Box, choose, not_begun
from posttrain.reward.sandbox.launchers import assemble
from posttrain.reward.sandbox.limits import Limits, Outcome
from posttrain.reward.sandbox.tests import Tests

_OURS = "posttrain.reward.sandbox"
_VERDICT_S = 0.5  # after the candidate's time is over, for the harness to say so


@dataclass(frozen=True, slots=True)
class Verdict:
    """How many asserts held. Example: Verdict(2, 3, "assert f(2) == 4")"""

    num_passed: int
    num_tests: int
    reason: str = ""  # the first that did not hold

    @property
    def share(self) -> float:
        return self.num_passed / self.num_tests


def judge(
    solution: str,
    tests: Tests,
    *,
    limits: Limits | None = None,
    allow_unsandboxed: bool = False,
    launcher: str = "",
) -> Verdict:
    """Run the tests against the solution, for `limits.wall_s` and half a second at most.

    Raises RewardBroken where the tests do not run, or no process started; NoSandbox where there is
    no sandbox and `allow_unsandboxed` does not do without.
    """
    limits = limits or Limits()
    name = launcher or choose(allow_unsandboxed)
    for_candidate, for_harness = socket.socketpair()
    with for_candidate, for_harness:
        asked, asking = for_candidate.fileno(), for_harness.fileno()
        harness = _harness(asking, tests, limits.wall_s)
        candidate = _candidate(asked, solution)
        with (
            Box(harness, limits, name, listen=True, keep=(asking,)) as trusted,
            Box(candidate, limits, name, keep=(asked,)),
        ):
            for_candidate.close()
            for_harness.close()
            outcome = trusted.outcome(limits.wall_s + _VERDICT_S)
    return _verdict(outcome, tests)


def _harness(channel: int, tests: Tests, wall_s: float) -> str:
    given = (tests.setup, list(tests.tests), list(tests.names), tests.also)
    parts = (channel, given, time.monotonic() + wall_s, wall_s / 2)
    return assemble(["codec", "harness"], f"sys.modules[{_OURS + '.harness'!r}].judge{parts!r}")


def _candidate(channel: int, solution: str) -> str:
    call = f"sys.modules[{_OURS + '.candidate'!r}].serve({channel}, {solution!r})"
    return assemble(["codec", "candidate"], call)


def _verdict(outcome: Outcome, tests: Tests) -> Verdict:
    lines = outcome.stdout.splitlines()
    if not lines:
        raise not_begun(outcome)
    word, *rest = lines[-1].split(" ", 3)
    if word == "broken":
        raise RewardBroken(f"the tests cannot be run: {rest[-1]}")
    if word != "judged":
        reason = "out of time" if outcome.killed_by else "the tests ended without a verdict"
        return Verdict(0, tests.num_asserts, reason)
    passed, failed, reason = int(rest[0]), int(rest[1]), "".join(rest[2:])
    if not failed:
        return Verdict(max(passed, 1), max(passed, 1))
    return Verdict(passed, max(tests.num_asserts, passed + failed), reason)
