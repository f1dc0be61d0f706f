"""Runs jobs that depend on one another, side by side as far as resources allow.

Plain threads: a job here only waits for processes elsewhere. The caller's thread schedules, so that
a Ctrl-C is handled at once whatever the jobs do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

TICK_S = 0.1  # how often the caller's `on_tick` runs while jobs are under way


@dataclass(frozen=True, slots=True)
class Job:
    """A piece of work. `needs` are names of jobs; `uses` counts of resources held while it runs."""

    name: str
    run: Callable[[], None]
    needs: frozenset[str] = frozenset()
    uses: Mapping[str, int] = field(default_factory=dict)


def run_jobs(
    jobs: Iterable[Job],
    capacity: Mapping[str, int],
    *,
    on_tick: Callable[[], None] = lambda: None,
    stop_asked: Callable[[], bool] = lambda: False,
) -> dict[str, BaseException]:
    """Run every job after those it needs; returns the errors of jobs that raised, by name.

    After the first error, or once `stop_asked()` is true, nothing new is started; what runs is
    waited for. A job that wants more of a resource than there is gets all of it. ValueError for a
    cycle or a need that no job has.
    """
    waiting = {job.name: job for job in jobs}
    _check(waiting)
    running: dict[Future[None], Job] = {}
    done: set[str] = set()
    errors: dict[str, BaseException] = {}
    free = dict(capacity)
    with ThreadPoolExecutor(max_workers=max(1, len(waiting)), thread_name_prefix="stage") as pool:
        while waiting or running:
            if not errors and not stop_asked():
                for job in _startable(waiting, done, free, capacity):
                    _take(free, job, capacity, -1)
                    running[pool.submit(job.run)] = waiting.pop(job.name)
            if not running:
                break
            finished, _ = wait(running, timeout=TICK_S, return_when=FIRST_COMPLETED)
            on_tick()
            for future in finished:
                job = running.pop(future)
                _take(free, job, capacity, +1)
                error = future.exception()
                if error is None:
                    done.add(job.name)
                else:
                    errors[job.name] = error
    return errors


def _startable(
    waiting: Mapping[str, Job],
    done: set[str],
    free: Mapping[str, int],
    capacity: Mapping[str, int],
) -> list[Job]:
    """Jobs whose needs are done and whose resources are free, in the order they were given."""
    left = dict(free)
    chosen = []
    for job in waiting.values():
        if job.needs <= done and all(
            left.get(name, 0) >= _share(job, name, capacity) for name in job.uses
        ):
            _take(left, job, capacity, -1)
            chosen.append(job)
    return chosen


def _share(job: Job, name: str, capacity: Mapping[str, int]) -> int:
    return min(job.uses[name], capacity.get(name, 0))


def _take(free: dict[str, int], job: Job, capacity: Mapping[str, int], sign: int) -> None:
    for name in job.uses:
        free[name] = free.get(name, 0) + sign * _share(job, name, capacity)


def _check(jobs: Mapping[str, Job]) -> None:
    settled: set[str] = set()
    while len(settled) < len(jobs):
        ready = {name for name, job in jobs.items() if job.needs <= settled}
        if ready == settled:
            stuck = sorted(set(jobs) - settled)
            raise ValueError(f"jobs that can never start: {', '.join(stuck)}")
        settled = ready
