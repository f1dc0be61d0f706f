"""Runs a program in a process of its own, with a deadline."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence


def last_line(
    command: Sequence[str], deadline_s: float, variables: Mapping[str, str] | None = None
) -> tuple[bool, str]:
    """Whether it ended well, and the last line that it printed; where not, the last of what it said
    is wrong. `variables` are added to its environment. Raises TimeoutError after the deadline.
    """
    try:
        ran = subprocess.run(
            command, capture_output=True, text=True, timeout=deadline_s, check=False,
            env=os.environ | (variables or {}),
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"not within {deadline_s:.0f} s") from error
    if ran.returncode != 0:
        return False, (ran.stderr.strip().splitlines() or [f"ends with {ran.returncode}"])[-1]
    return True, (ran.stdout.strip().splitlines() or [""])[-1]
