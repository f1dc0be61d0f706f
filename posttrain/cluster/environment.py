"""Environment of Ray and of the processes that it starts. Imports no ray: it must come first."""

from __future__ import annotations

import os
from pathlib import Path

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_DEDUP_LOGS": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",  # 2 by default: that long a stage ends later
    # 60 by default: that long a Ctrl-C is not heard where trainers wait for room.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",
    # Of every call of every actor Ray keeps a record for its dashboard, 100,000 before it forgets
    # any: its server grows for hours. 0 keeps none.
    "RAY_task_events_report_interval_ms": "0",
    # A process that was given no GPU sees none. Ray lets it see all of them, and torch,
    # transformers and vLLM each take what they see.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "RAY_worker_niceness": "0",  # Ray's 15 starves a trainer beside anything else on two cores
    "VLLM_NO_USAGE_STATS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

LOCAL_SETTINGS = {
    # A cluster of one host listens on 127.0.0.1 only: Ray asks nobody who they are, and whoever
    # reaches its ports can run code. (The name is Ray's; on Linux it does just this.)
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Asks a cloud whether this machine will be taken away; here it is one process more.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Ray starts a process per core before any is asked for. What trains, generates or scores brings
    # settings of its own and takes none of them: each is a second of processor time for nothing.
    "RAY_prestart_worker_first_driver": "0",
    # How often a thread of torch's looks for work before it sleeps. Two trainers side by side, each
    # with a thread per core, spin in each other's way: 300,000, OpenMP's own, halves what both make
    # together; with this it stays whole, and one alone loses a tenth at most.
    "GOMP_SPINCOUNT": "1000",
}


def prepare_ray(address: str | None) -> None:
    """Set what is not set already; worker processes inherit it. Call before `ray` is imported."""
    settings = SETTINGS | ({} if address else LOCAL_SETTINGS)
    if address and (Path.home() / ".ray" / "auth_token").exists():
        # Ray shows its token to a cluster that it finds by itself, to a named one only when told.
        settings["RAY_AUTH_MODE"] = "token"
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def train_settings() -> dict[str, str]:
    """Of this process's environment what Ray Train reads, for one on a cluster that was joined."""
    return {name: value for name, value in os.environ.items() if name.startswith("RAY_TRAIN_")}
