"""Memory of every process over 500 steps of one online stage: flat, or something leaks.

The steps are as short as they can be made (few, short answers of a small model from random
weights): what grows, grows per step, sample, weight version or message, whatever their size. Once a
second every process under the run's driver is looked at in /proc: resident memory, memory that is
its alone, open files; and the size of the stage's journal folder.

Compared are medians over the steps 100 to 200 and 400 to 500. A process may grow by 8 MB or 2 %,
whichever is more: allocators take what they need at the largest batch so far, and the largest of
500 random batches is a little larger than the largest of 200.
"""

from __future__ import annotations

import itertools
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.figures import Figure, at_most, shown, worst_at_most

STEPS = 500
EARLY, LATE = (100, 200), (400, 500)  # steps
LOOK_EVERY_S = 1.0
GROWTH_MB, GROWTH_SHARE = 8.0, 0.02
MOST_NEW_FILES = 2
JOURNAL_GROWTH = 1.5  # commits remove journals every CHECKPOINT_EVERY steps: a saw, not a line
CHECKPOINT_EVERY = 20
FEWEST_LOOKS = 5  # of a process in a window
MB = 1e6

STAGE = "train"
PIPELINE: dict[str, Any] = {
    "name": "memory",
    "seed": 0,
    "cluster": "laptop",
    "wandb": {"mode": "disabled"},
    "stages": {
        "blank": {"kind": "model", "from_scratch": "micro"},
        STAGE: {
            "kind": "online_rl",
            "model": "blank",
            "algorithm": {"name": "grpo", "lr": 1e-5},
            "reward": "arithmetic",
            "data": "microworld/arithmetic",
            "batch": {"prompts": 4, "samples_per_prompt": 2},
            "steps": STEPS,
            "staleness": {"max": 2, "ahead": 1},
            "sampling": {"max_new_tokens": 8},
            "checkpoint_every": CHECKPOINT_EVERY,
            "logprob_check_every": 10,
        },
    },
}


@dataclass(frozen=True, slots=True)
class Look:
    """One process at one moment."""

    time: float
    resident_bytes: int
    own_bytes: int  # shared with nobody
    open_files: int


@dataclass(slots=True)
class Watched:
    """A process; its name is what it last called itself, for Ray names workers when it needs
    them.
    """

    name: str = ""
    looks: list[Look] = field(default_factory=list)


@dataclass(slots=True)
class Watch:
    """Looks at a process and everything below it until told to stop."""

    driver: int
    folder: Path
    processes: dict[int, Watched] = field(default_factory=dict)
    journal: list[tuple[float, int]] = field(default_factory=list)  # time, bytes
    _over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            now = time.time()
            for pid in family(self.driver):
                try:
                    name, look = _look(pid, now)
                except (OSError, ValueError):
                    continue  # it ended while we looked
                watched = self.processes.setdefault(pid, Watched())
                watched.looks.append(look)
                watched.name = name if name != "ray::IDLE" or not watched.name else watched.name
            self.journal.append((now, _folder_bytes(self.folder.glob("*/journal/*"))))

    def stop(self) -> None:
        self._over.set()


def run() -> tuple[list[Figure], dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        watch = _run_watched(folder)
        stage = next(path for path in (folder / "runs/memory" / STAGE).iterdir() if path.is_dir())
        ends = _step_ends(stage / "metrics.jsonl")
        files = {each.name: each.stat().st_size for each in stage.glob("*.jsonl")}
    early, late = [(ends[first], ends[last - 1]) for first, last in (EARLY, LATE)]
    figures = _process_figures(watch, early, late)
    figures += _journal_figures(watch, early, late)
    figures += [
        shown(f"{name}, per step", [size / STEPS], "bytes") for name, size in sorted(files.items())
    ]
    figures.append(shown("step", [(late[1] - late[0]) / (LATE[1] - LATE[0] - 1)], "s"))
    return figures, {
        "steps": STEPS,
        "windows": [EARLY, LATE],
        "every_s": LOOK_EVERY_S,
        "stage": PIPELINE["stages"][STAGE],
    }


def _run_watched(folder: Path) -> Watch:
    (folder / "memory.yaml").write_text(yaml.safe_dump(PIPELINE, sort_keys=False))
    process = subprocess.Popen(
        [sys.executable, "-m", "posttrain.cli", "run", "memory.yaml"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    watch = Watch(process.pid, folder / "runs/memory" / STAGE)
    thread = threading.Thread(target=watch.run, name="watch", daemon=True)
    thread.start()
    try:
        status = process.wait()
    finally:
        watch.stop()
        thread.join()
    if status != 0:
        raise RuntimeError(f"the run in {folder} ended with {status}")
    return watch


def _step_ends(path: Path) -> list[float]:
    """When each step was over (time.time())."""
    rows = map(json.loads, path.read_text().splitlines())
    return [row["time"] for row in rows if "train/loss" in row]


# -- figures ------------------------------------------------------------------------------------


def _process_figures(
    watch: Watch, early: tuple[float, float], late: tuple[float, float]
) -> list[Figure]:
    """Each process that was there in both windows; several of a name are numbered."""
    figures: list[Figure] = []
    new_files: list[float] = []
    counts: Counter[str] = Counter()
    for pid in sorted(watch.processes):
        watched = watch.processes[pid]
        before, after = (_within(watched.looks, window) for window in (early, late))
        if min(len(before), len(after)) < FEWEST_LOOKS:
            continue
        counts[watched.name] += 1
        number = counts[watched.name]
        name = watched.name if number == 1 else f"{watched.name} {number}"
        first, last = (
            statistics.median(look.resident_bytes for look in looks) / MB
            for looks in (before, after)
        )
        allowed = max(GROWTH_MB, GROWTH_SHARE * first)
        figures.append(at_most(f"{name} ({first:.0f} MB), grows", [last - first], allowed, "MB"))
        own = [
            statistics.median(look.own_bytes for look in looks) / MB for looks in (before, after)
        ]
        figures.append(shown(f"{name}, memory of its own grows", [own[1] - own[0]], "MB"))
        files = [statistics.median(look.open_files for look in looks) for looks in (before, after)]
        new_files.append(files[1] - files[0])
    figures.append(worst_at_most("open files of a process, growth", new_files, MOST_NEW_FILES, ""))
    return figures


def _journal_figures(
    watch: Watch, early: tuple[float, float], late: tuple[float, float]
) -> list[Figure]:
    largest = [
        max(size for at, size in watch.journal if first <= at <= last)
        for first, last in (early, late)
    ]
    return [
        at_most("journals, late / early largest", [largest[1] / largest[0]], JOURNAL_GROWTH, "x"),
        shown("journals, largest", [largest[1] / 1000], "kB"),
    ]


def _within(looks: Iterable[Look], window: tuple[float, float]) -> Sequence[Look]:
    return [look for look in looks if window[0] <= look.time <= window[1]]


# -- /proc --------------------------------------------------------------------------------------


def family(root: int) -> list[int]:
    """The process and everything below it. Ray's processes are its children's children."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(folder.name))
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting.extend(children.get(pid, ()))
    return found


def _look(pid: int, now: float) -> tuple[str, Look]:
    """(name, look). Raises OSError where the process ended."""
    folder = Path("/proc") / str(pid)
    rollup = (folder / "smaps_rollup").read_text()
    sizes = {
        key: 1024 * int(value) for key, value in re.findall(r"^(\w+): +(\d+) kB$", rollup, re.M)
    }
    if "Rss" not in sizes:
        raise ValueError("a process without memory has ended")
    look = Look(
        now,
        sizes["Rss"],
        sizes["Private_Clean"] + sizes["Private_Dirty"],
        sum(1 for _ in (folder / "fd").iterdir()),
    )
    return _name((folder / "cmdline").read_bytes()), look


def _name(command: bytes) -> str:
    """`ray::RewardActor` of `ray::RewardActor.score`; the module or program of other commands."""
    words = command.rstrip(b"\0 ").decode(errors="replace").split("\0")
    if words[0].startswith("ray::"):
        return words[0].partition(".")[0].split()[0]
    for option, value in itertools.pairwise(words):
        if option == "-m":
            return value
    named = [word for word in words if word.endswith(".py")]
    return Path(named[0] if named else words[0]).name


def _folder_bytes(paths: Iterable[Path]) -> int:
    total = 0
    for path in paths:
        try:
            total += path.stat().st_size
        except OSError:
            continue  # removed by a commit meanwhile
    return total
