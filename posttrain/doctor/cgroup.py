"""What a container may use of its machine: the limits of Linux control groups, versions 1 and 2.

A process is in a group, groups are nested, and the tightest limit on the way up counts. Where there
are no such files (macOS, a hidden /proc) there is no limit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path("/")
NO_LIMIT_BYTES = 1 << 60  # version 1 writes "no limit" as a number of about 2**63


@dataclass(frozen=True, slots=True)
class Limits:
    """None where there is no limit."""

    cores: float | None = None
    memory_bytes: int | None = None
    memory_used_bytes: int = 0  # of the group that sets the limit, without what can be dropped


def read_limits(root: Path = ROOT) -> Limits:
    """The limits of this process. `root` is where /proc and /sys are (for tests)."""
    text = _read(root / "proc" / "self" / "cgroup") or ""
    base = root / "sys" / "fs" / "cgroup"
    cores = [
        share
        for controller in ("", "cpu")
        for folder in _folders(base, text, controller)
        if (share := _cores(folder)) is not None
    ]
    memory = [
        found
        for controller in ("", "memory")
        for folder in _folders(base, text, controller)
        if (found := _memory(folder)) is not None
    ]
    limit, used = min(memory, default=(None, 0))
    return Limits(min(cores, default=None), limit, used)


def group_of(text: str, controller: str) -> str | None:
    """The group's path in /proc/self/cgroup; `""` is version 2's only hierarchy.

    Example: group_of("0::/user.slice", "") is "/user.slice".
    """
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(","):
            return path
    return None


def quota_cores(text: str) -> float | None:
    """Cores that `cpu.max` allows: "150000 100000" are 1.5, "max 100000" no limit."""
    quota, _, period = text.strip().partition(" ")
    return _ratio(quota, period or "100000")


def limit_bytes(text: str) -> int | None:
    """Bytes of `memory.max` or its like in version 1; None where there is no limit."""
    value = _number(text)
    return value if value is not None and 0 < value < NO_LIMIT_BYTES else None


def _folders(base: Path, text: str, controller: str) -> Iterable[Path]:
    group = group_of(text, controller)
    if group is None:
        return []
    top = base / controller if controller else base
    inside = PurePosixPath(group.lstrip("/") or ".")
    if ".." in inside.parts:  # of another namespace: only its own top can be seen
        return [top]
    return [top / each for each in (inside, *inside.parents)]


def _cores(folder: Path) -> float | None:
    if (both := _read(folder / "cpu.max")) is not None:
        return quota_cores(both)
    quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    return _ratio(quota or "", period or "")


def _ratio(quota: str, period: str) -> float | None:
    of, per = _number(quota), _number(period)
    return of / per if of is not None and per is not None and of > 0 and per > 0 else None


def _memory(folder: Path) -> tuple[int, int] | None:
    """(limit, used) in bytes."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        most = limit_bytes(_read(folder / limit) or "")
        if most is not None:
            cache = _inactive_files(_read(folder / "memory.stat") or "")
            return most, max(0, (_number(_read(folder / used) or "") or 0) - cache)
    return None


def _inactive_files(text: str) -> int:
    """Bytes of files that the kernel drops as soon as somebody needs the memory."""
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file"):
            return _number(value) or 0
    return 0


def _number(text: str) -> int | None:
    try:
        return int(text.strip())
    except ValueError:
        return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
