"""Cores, memory, GPUs and open files: verdicts at their limits."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import pytest

from posttrain.doctor import gpus as gpus_module
from posttrain.doctor import machine as machine_module
from posttrain.doctor.cgroup import Limits
from posttrain.doctor.finding import Finding, lines, summary
from posttrain.doctor.gpus import Gpu, Gpus, find_gpus, parse, visible
from posttrain.doctor.machine import Machine, gigabytes, machine_findings, read_machine

WELL = Machine("Linux", 4, None, 24_000_000_000, 20_000_000_000, (1024, 1_048_576), Gpus())
A, B = Gpu("A", 80 << 30, 79 << 30), Gpu("B", 80 << 30, 10 << 30)


def verdicts(machine: Machine) -> dict[str, str]:
    return {each.name: each.verdict for each in machine_findings(machine)}


def named(machine: Machine, name: str) -> Finding:
    return next(each for each in machine_findings(machine) if each.name == name)


def test_a_good_machine() -> None:
    assert set(verdicts(WELL).values()) == {"ok"}
    assert named(WELL, "cores").text == "4 cores"
    assert named(WELL, "memory").text == "24 GB, 20 GB free"
    assert named(WELL, "open files").text == "up to 65536 in a process"  # as Ray raises it


def test_a_machine_that_tells_nothing() -> None:
    found = verdicts(Machine(""))
    assert found == {
        "system": "act", "cores": "watch", "memory": "watch", "GPU": "ok", "open files": "ok",
    }  # fmt: skip


def test_runs_need_linux() -> None:
    found = named(replace(WELL, system="Darwin"), "system")
    assert (found.verdict, found.text[:7]) == ("act", "Darwin:")


@pytest.mark.parametrize(
    ("quota", "verdict", "help"),
    [
        (4.0, "ok", ""),
        (3.9, "watch", "posttrain run FILE cluster.cpus=3"),
        (0.5, "watch", "posttrain run FILE cluster.cpus=1"),
    ],
)
def test_a_quota_below_the_cores(quota: float, verdict: str, help: str) -> None:
    found = named(replace(WELL, quota_cores=quota), "cores")
    assert (found.verdict, found.help) == (verdict, help)


@pytest.mark.parametrize(
    ("free", "verdict"), [(6_000_000_000, "ok"), (5_999_999_999, "watch"), (0, "watch")]
)
def test_memory(free: int, verdict: str) -> None:
    assert named(replace(WELL, free_bytes=free), "memory").verdict == verdict


@pytest.mark.parametrize(
    ("limits", "verdict", "told"),
    [
        ((4096, 4096), "ok", "4096"),
        ((256, 4095), "watch", "4095"),
        ((256, 9000), "ok", "9000"),
        ((1_000_000, 1_000_000), "ok", "1000000"),
    ],
)
def test_open_files(limits: tuple[int, int], verdict: str, told: str) -> None:
    found = named(replace(WELL, open_files=limits), "open files")
    assert (found.verdict, told in found.text) == (verdict, True)


def test_gpus() -> None:
    found = named(replace(WELL, gpus=Gpus((A,))), "GPU")
    assert (found.verdict, found.text) == ("ok", "A, 86 GB, 85 GB free")
    found = named(replace(WELL, gpus=Gpus((A, B))), "GPU")
    assert found.verdict == "watch"
    assert found.text == "2 × A, B, 86 GB, 11 GB free at least: another process is there"
    assert verdicts(replace(WELL, gpus=Gpus(trouble="nvidia-smi fails: x")))["GPU"] == "act"


def test_what_nvidia_smi_prints() -> None:
    text = "NVIDIA H100, 81559, 81000\nOdd, [N/A], 5\n\nbroken line\n"
    assert parse(text) == (Gpu("NVIDIA H100", 81559 << 20, 81000 << 20), Gpu("Odd", 0, 5 << 20))


@pytest.mark.parametrize(
    ("chosen", "left"),
    [(None, (A, B)), ("", ()), ("1", (B,)), ("1, 0", (B, A)), ("7", ()), ("-1", ()),
     ("GPU-ab12", (A,))],
)  # fmt: skip
def test_visible_devices(chosen: str | None, left: tuple[Gpu, ...]) -> None:
    assert visible((A, B), chosen) == left


@pytest.mark.parametrize(
    ("outcome", "trouble"),
    [
        (subprocess.TimeoutExpired("nvidia-smi", 3), "nvidia-smi does not answer within 3 s"),
        (PermissionError(13, "Permission denied"), "nvidia-smi does not start: Permission denied"),
        (subprocess.CompletedProcess([], 9, "no driver\n", ""), "nvidia-smi fails: no driver"),
        (subprocess.CompletedProcess([], 9, "", ""), "nvidia-smi fails: 9"),
    ],
)
def test_an_nvidia_smi_that_fails_is_told(
    monkeypatch: pytest.MonkeyPatch, outcome: object, trouble: str
) -> None:
    def run(*_: object, **__: object) -> object:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(gpus_module.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(gpus_module.subprocess, "run", run)
    assert find_gpus() == Gpus((), trouble)


def test_a_system_without_affinity_or_proc_is_read_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import psutil

    def hidden() -> object:
        raise FileNotFoundError("/proc/meminfo")

    monkeypatch.delattr(machine_module.os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(machine_module.os, "cpu_count", lambda: 3)
    monkeypatch.setattr(machine_module, "read_limits", Limits)
    monkeypatch.setattr(psutil, "virtual_memory", hidden)
    monkeypatch.setattr(machine_module, "find_gpus", Gpus)
    read = read_machine()
    assert (read.cores, read.memory_bytes, read.free_bytes) == (3, None, None)


def test_the_tighter_of_machine_and_container_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "_memory", lambda: (100, 60))
    for limits, memory in {
        Limits(None, 50, 20): (50, 30),
        Limits(None, 90, 10): (90, 60),
        Limits(None, 50, 70): (50, 0),
        Limits(): (100, 60),
    }.items():
        monkeypatch.setattr(machine_module, "read_limits", lambda limits=limits: limits)
        read = read_machine()
        assert (read.memory_bytes, read.free_bytes) == memory


def test_lines_and_summary() -> None:
    found = [Finding("cores", "ok", "2 cores"), Finding("disk", "act", "full", "rm x"),
             Finding("shared memory", "watch", "small")]  # fmt: skip
    assert lines(found) == [
        " ✓ ok     cores         2 cores",
        " ✗ act    disk          full",
        "   help: rm x",
        " ! watch  shared memory small",
    ]
    assert summary(found, 0.44) == "1 to act on, 1 to watch, 0.4 s"
    assert summary(found[:1], 1.0) == "nothing to act on, 1.0 s"


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(0, "0.0 GB"), (9_949_999_999, "9.9 GB"), (9_950_000_000, "10 GB")]
)
def test_gigabytes(num_bytes: int, text: str) -> None:
    assert gigabytes(num_bytes) == text
