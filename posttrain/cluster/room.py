"""Whether the nodes of a Ray cluster have room for a run, and waiting until they do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

import ray
from ray.autoscaler.sdk import request_resources

from posttrain.errors import InputError, Problem
from posttrain.pipeline.room import Held, Room, together

LOOK_EVERY_S = 2.0


def nodes_now() -> list[Room]:
    """What the living nodes have, whoever uses it at the moment."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Room(int(each.get("CPU", 0)), int(each.get("GPU", 0))) for each in alive]


def room_now() -> Room:
    """What all living nodes have together."""
    return together(nodes_now())


def require_room(
    missing: Callable[[Sequence[Room]], list[Problem]],
    wanted: Iterable[Held],
    wait_s: float,
    say: Callable[[str], None],
) -> None:
    """Return as soon as `missing` finds nothing wrong with the nodes; ask every two seconds.

    Where the cluster starts nodes by itself, it is asked for what the largest stage wants for as
    long as this waits. Raises InputError with the mistakes that are left after `wait_s` seconds.
    """
    problems = missing(nodes_now())
    if problems and wait_s > 0:
        say(f"waiting for the cluster: {problems[0].message}")
        problems = _wait(missing, bundles(max(wanted, key=_size)), wait_s)
    if problems:
        raise InputError(problems)


def _wait(
    missing: Callable[[Sequence[Room]], list[Problem]], asked: list[dict[str, float]], wait_s: float
) -> list[Problem]:
    """What is still missing at the end."""
    until = time.monotonic() + wait_s
    request_resources(bundles=asked)
    try:
        while (problems := missing(nodes_now())) and time.monotonic() < until:
            time.sleep(min(LOOK_EVERY_S, wait_s))
        return problems
    finally:
        request_resources(bundles=[])


def _size(held: Held) -> tuple[int, int]:
    return held.all.gpus, held.all.cpus


def bundles(held: Held) -> list[dict[str, float]]:
    """What Ray's autoscaler is to make room for: one entry per process."""
    engine, trainer = _bundle(held.gpus_per_engine), _bundle(held.gpus_per_trainer)
    scoring = [{"GPU": float(held.scoring_gpus)}] if held.scoring_gpus else []
    return [engine] * held.engines + [trainer] * held.trainers + scoring


def _bundle(gpus: int) -> dict[str, float]:
    return {"CPU": 1.0, "GPU": float(gpus)} if gpus else {"CPU": 1.0}
