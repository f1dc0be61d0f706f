"""A program that cannot outlive who started it: `python -m posttrain.cluster.leash FD COMMAND...`

Runs the command and waits until it ends, or until the pipe FD closes, which it does however the
starter dies. Then the command and all that it started are ended: asked first, killed after a grace.
The leash has to lead a session of its own. Imports nothing heavy: it lives as long as the command.

(`PR_SET_PDEATHSIG` would end one process only, and already when the starting thread ends.)

It forks first: where a Ray worker ends, its raylet kills the worker's own children at once, and who
watches the pipe must be left to do its work.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
from contextlib import suppress

GRACE_S = 10.0


def main() -> int:
    """Exit status of the command, negative where a signal ended it."""
    pipe, command = int(sys.argv[1]), sys.argv[2:]
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # meant for the rest of the group
    if watcher := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(watcher, 0)[1])
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_heed_sigterm)
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        selector.register(os.pidfd_open(process.pid), selectors.EVENT_READ)
        selector.select()
    os.killpg(0, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        return process.wait(GRACE_S)
    os.killpg(0, signal.SIGKILL)
    return 1  # never reached: the leash is of the group


def _heed_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main())
