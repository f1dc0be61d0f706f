"""Cores of their own: one engine each, never the last one, gone with the process."""

import os
import subprocess
import sys
import uuid

import pytest

from posttrain.cluster import cores

TAKE = """
import sys
from posttrain.cluster import cores
cores.NAMES = sys.argv[2]  # not those of the runs on this machine
print(*cores.take_cores(int(sys.argv[1])), flush=True)
sys.stdin.read()
"""


class Engine:
    """A process that takes cores and lives until it is closed."""

    def __init__(self, names, count=1):
        self._process = subprocess.Popen(
            [sys.executable, "-c", TAKE, str(count), names],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.cores = [int(each) for each in self._process.stdout.readline().split()]

    def close(self):
        self._process.kill()
        self._process.wait()


@pytest.fixture
def host():
    """The cores that this process may use; two or more."""
    if not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores and a system that knows them")
    return sorted(os.sched_getaffinity(0))


@pytest.fixture
def names():
    return f"test/{uuid.uuid4().hex}/"


def test_each_engine_has_a_core_and_one_stays_for_others(host, names):
    engines = [Engine(names) for _ in range(len(host) + 1)]
    try:
        taken = [each.cores for each in engines]
        assert sorted(core for own in taken for core in own) == host[1:]
        assert taken[0] == [host[-1]]  # the first cores serve interrupts
        assert taken[-2:] == [[], []]
    finally:
        for each in engines:
            each.close()


def test_a_core_is_free_again_once_its_engine_is_dead(host, names):
    first = Engine(names)
    first.close()
    second = Engine(names)
    second.close()
    assert second.cores == first.cores == [host[-1]]


def test_an_engine_that_wants_all_cores_takes_none(host, names):
    engine = Engine(names, len(host))
    engine.close()
    assert engine.cores == []


def test_keeping_off_cores_leaves_at_least_one(host):
    code = (
        "import os; from posttrain.cluster.cores import keep_off\n"
        f"keep_off({host[:1]}); print(sorted(os.sched_getaffinity(0)))\n"
        f"keep_off({host}); print(sorted(os.sched_getaffinity(0)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(host[1:])] * 2


def test_systems_without_affinity_have_no_cores_to_give(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert cores.take_cores(1) == ()
    cores.keep_off([0])
