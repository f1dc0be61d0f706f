import threading
import time

import pytest

from posttrain.pipeline.scheduler import Job, run_jobs


def test_order_follows_needs():
    seen = []
    jobs = [
        Job("c", lambda: seen.append("c"), frozenset({"a", "b"})),
        Job("a", lambda: seen.append("a")),
        Job("b", lambda: seen.append("b"), frozenset({"a"})),
    ]
    assert run_jobs(jobs, {}) == {}
    assert seen == ["a", "b", "c"]


def test_independent_jobs_run_side_by_side_within_resources():
    active, most = [], []

    def with_the_engine():
        active.append(1)
        time.sleep(0.05)
        most.append(len(active))
        active.pop()

    jobs = [Job(f"e{i}", with_the_engine, uses={"engine": 1}) for i in range(3)]
    assert run_jobs(jobs, {"engine": 1}) == {}
    assert most == [1, 1, 1]
    meeting = threading.Barrier(3, timeout=60)  # broken where one of them does not come
    assert run_jobs([Job(f"l{i}", meeting.wait) for i in range(3)], {"engine": 1}) == {}


def test_a_job_that_wants_more_than_there_is_gets_all_of_it():
    ran = []
    assert run_jobs([Job("a", lambda: ran.append(1), uses={"engine": 8})], {"engine": 2}) == {}
    assert ran == [1]


def test_after_an_error_nothing_new_starts_and_what_runs_is_waited_for():
    ran = []

    def fail():
        raise RuntimeError("no")

    def slow():
        time.sleep(0.1)
        ran.append("slow")

    jobs = [
        Job("bad", fail),
        Job("slow", slow),
        Job("after", lambda: ran.append("x"), frozenset({"slow"})),
    ]
    errors = run_jobs(jobs, {})
    assert list(errors) == ["bad"]
    assert ran == ["slow"]


def test_stop_starts_nothing_new():
    ran = []
    jobs = [Job("a", lambda: ran.append("a")), Job("b", lambda: ran.append("b"), frozenset({"a"}))]
    run_jobs(jobs, {}, stop_asked=lambda: bool(ran))
    assert ran == ["a"]


def test_a_cycle_is_refused():
    jobs = [Job("a", lambda: None, frozenset({"b"})), Job("b", lambda: None, frozenset({"a"}))]
    with pytest.raises(ValueError, match="a, b"):
        run_jobs(jobs, {})
