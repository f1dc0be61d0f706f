"""Limits of containers, of both versions, as numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.doctor.cgroup import Limits, group_of, limit_bytes, quota_cores, read_limits


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_version_2_the_tightest_on_the_way_up_counts(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/user.slice/job\n",
            "sys/fs/cgroup/cpu.max": "max 100000\n",
            "sys/fs/cgroup/user.slice/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/user.slice/job/cpu.max": "400000 100000\n",
            "sys/fs/cgroup/user.slice/memory.max": "max\n",
            "sys/fs/cgroup/user.slice/job/memory.max": "8000\n",
            "sys/fs/cgroup/user.slice/job/memory.current": "5000\n",
            "sys/fs/cgroup/user.slice/job/memory.stat": "anon 3000\ninactive_file 1500\n",
        },
    )
    assert read_limits(root) == Limits(1.5, 8000, 3500)  # 5000 - 1500 that can be dropped


def test_version_1(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/docker/ab\n3:cpu,cpuacct:/docker/ab\n1:name=x:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu/docker/ab/cpu.cfs_quota_us": "250000\n",
            "sys/fs/cgroup/cpu/docker/ab/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/docker/ab/memory.limit_in_bytes": "4096\n",
            "sys/fs/cgroup/memory/docker/ab/memory.usage_in_bytes": "1024\n",
        },
    )
    assert read_limits(root) == Limits(2.5, 4096, 1024)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc/self/cgroup": ""},
        {"proc/self/cgroup": "0::/\n"},
        {"proc/self/cgroup": "nonsense"},
        {"proc/self/cgroup": "0::/../../up\n", "sys/fs/cgroup/cpu.max": "max"},
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "fast slow"},
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": ""},
    ],
)
def test_no_limit_where_there_is_none(tmp_path: Path, files: dict[str, str]) -> None:
    assert read_limits(write(tmp_path, files)) == Limits()


def test_groups() -> None:
    text = "4:memory:/m\n3:cpu,cpuacct:/c:d\n0::/two\n"
    assert group_of(text, "memory") == "/m"
    assert group_of(text, "cpu") == "/c:d"
    assert group_of(text, "") == "/two"
    assert group_of(text, "pids") is None


@pytest.mark.parametrize(
    ("text", "cores"),
    [("150000 100000\n", 1.5), ("max 100000", None), ("50000", 0.5), ("", None), ("0 100000", None),
     ("100000 0", None)],
)  # fmt: skip
def test_quotas(text: str, cores: float | None) -> None:
    assert quota_cores(text) == cores


@given(st.text(max_size=20))
def test_no_text_breaks_it(text: str) -> None:
    assert quota_cores(text) is None or quota_cores(text) > 0
    assert limit_bytes(text) is None or 0 < limit_bytes(text) < 1 << 60
    assert group_of(text, "") is None or isinstance(group_of(text, ""), str)
