"""Cores, memory, GPUs and open files: what a run makes of them."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field

from posttrain.doctor.cgroup import read_limits
from posttrain.doctor.finding import Finding
from posttrain.doctor.gpus import Gpus, find_gpus

# Measured: all processes of an online_rl stage with a micro model, on two cores, shared pages once.
SMALLEST_RUN_BYTES = 6_000_000_000
RAY_RAISES_TO = 65_536  # open files, if the hard limit allows it
RAY_WARNS_BELOW = 4_096


@dataclass(frozen=True, slots=True)
class Machine:
    """What was read. None where a system does not tell."""

    system: str  # "Linux", "Darwin", ...
    cores: int | None = None  # that this process may run on
    quota_cores: float | None = None  # core-seconds per second that its container gets
    memory_bytes: int | None = None
    free_bytes: int | None = None  # that can be had without swapping
    open_files: tuple[int, int] | None = None  # soft and hard limit; None: no limit
    gpus: Gpus = field(default_factory=Gpus)


def read_machine() -> Machine:
    """This machine, as far as this process may use it. Never raises."""
    limits = read_limits()
    total, free = _memory()
    if limits.memory_bytes is not None:
        total = min(limits.memory_bytes, total or limits.memory_bytes)
        left = max(0, limits.memory_bytes - limits.memory_used_bytes)
        free = min(left, left if free is None else free)
    return Machine(
        platform.system(), _cores(), limits.cores, total, free, _open_files(), find_gpus()
    )


def machine_findings(machine: Machine) -> list[Finding]:
    """Whether a run works here at all, and what holds it back."""
    return [
        _system(machine),
        _cores_finding(machine),
        _memory_finding(machine),
        _gpu_finding(machine.gpus),
        _open_files_finding(machine.open_files),
    ]


def gigabytes(num_bytes: float) -> str:
    """`24 GB`, `0.5 GB`: 10**9 bytes."""
    value = num_bytes / 1e9
    return f"{value:.1f} GB" if value < 9.95 else f"{value:.0f} GB"


def _system(machine: Machine) -> Finding:
    if machine.system == "Linux":
        return Finding("system", "ok", platform.platform(terse=True))
    return Finding(
        "system",
        "act",
        f"{machine.system or 'unknown'}: check, plan, show and report work, runs need Linux",
        "in a Linux container or machine: make setup && posttrain doctor",
    )


def _cores_finding(machine: Machine) -> Finding:
    if machine.cores is None:
        return Finding("cores", "watch", "the system does not tell how many", "nproc")
    number = f"{machine.cores} core{'' if machine.cores == 1 else 's'}"
    quota = machine.quota_cores
    if quota is None or quota >= machine.cores:
        return Finding("cores", "ok", number)
    few = max(1, int(quota))
    return Finding(
        "cores",
        "watch",
        f"{number}, but this container gets the time of {quota:.3g}: threads wait for one another",
        f"posttrain run FILE cluster.cpus={few}",
    )


def _memory_finding(machine: Machine) -> Finding:
    if machine.memory_bytes is None or machine.free_bytes is None:
        return Finding("memory", "watch", "the system does not tell how much", "free -h")
    text = f"{gigabytes(machine.memory_bytes)}, {gigabytes(machine.free_bytes)} free"
    if machine.free_bytes >= SMALLEST_RUN_BYTES:
        return Finding("memory", "ok", text)
    most = gigabytes(SMALLEST_RUN_BYTES)
    return Finding(
        "memory",
        "watch",
        f"{text}; online stages of the smallest model take about {most}",
        "ps -eo pid,rss,args --sort=-rss | head",
    )


def _gpu_finding(gpus: Gpus) -> Finding:
    if gpus.trouble:
        return Finding("GPU", "act", gpus.trouble, "nvidia-smi")
    if not gpus.devices:
        return Finding("GPU", "ok", "none; engines and trainers compute on cores")
    names = list(dict.fromkeys(each.name for each in gpus.devices))
    number = f"{len(gpus.devices)} × " if len(gpus.devices) > 1 else ""
    least = min(gpus.devices, key=lambda each: each.free_bytes)
    memory = f"{gigabytes(least.memory_bytes)}, {gigabytes(least.free_bytes)} free"
    text = f"{number}{', '.join(names)}, {memory}{' at least' if number else ''}"
    if least.free_bytes < least.memory_bytes / 2:
        return Finding("GPU", "watch", f"{text}: another process is there", "nvidia-smi")
    return Finding("GPU", "ok", text)


def _open_files_finding(limits: tuple[int, int] | None) -> Finding:
    if limits is None:
        return Finding("open files", "ok", "no limit")
    soft, hard = limits
    most = max(soft, min(hard, RAY_RAISES_TO))  # as Ray itself raises it
    if most >= RAY_WARNS_BELOW:
        return Finding("open files", "ok", f"up to {most} in a process")
    return Finding(
        "open files",
        "watch",
        f"at most {most} in a process; Ray wants {RAY_WARNS_BELOW} or more",
        f"ulimit -Hn {RAY_RAISES_TO} && ulimit -n {RAY_RAISES_TO}   (as root, or in limits.conf)",
    )


def _cores() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _memory() -> tuple[int | None, int | None]:
    try:
        import psutil

        memory = psutil.virtual_memory()
    except Exception:  # boundary: no psutil, or no /proc: then it is not known
        return None, None
    return memory.total, memory.available


def _open_files() -> tuple[int, int] | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return None
    return soft, RAY_RAISES_TO if hard == resource.RLIM_INFINITY else hard
