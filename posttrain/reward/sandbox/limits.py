"""What a program may use, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use. Memory counts per process, so `processes` times it at worst."""

    wall_s: float = 5.0  # then it is killed, with all it started
    memory_mb: int = 512  # address space of each process
    processes: int = 4  # with threads
    disk_mb: int = 16  # of its own folder, the one place to write; lies in memory
    open_files: int = 32
    output_bytes: int = 1 << 16  # of standard output and error together; then it is killed

    @property
    def cpu_s(self) -> int:
        """Above the wall-clock limit: for what the wall clock should have ended long ago."""
        return int(self.wall_s) + 2


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one program. Example: Outcome(0, "", "65\\n", "", 0.04, "bwrap")"""

    exit_code: int | None  # 128 + signal where one ended it; None where it was killed
    killed_by: Literal["", "time", "output"]
    stdout: str
    stderr: str
    seconds: float
    launcher: str
