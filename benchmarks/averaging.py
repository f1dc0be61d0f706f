"""Merging two models of 1 GB, in shards of 250 MB: memory, and speed beside copying the same bytes.

Each merge (linear, 0.3) has a process of its own. Beside it, in turns, plain reads and writes of
the same bytes: both models are read, one is written, 16 MB at a time. From disk: the sources are
dropped from the page cache before, and what was written is forced to disk within the time, for
both. From memory: everything stays in the page cache, and nothing is forced.

Peak memory is what the kernel counts as resident at its largest, pages of mapped files included:
of the whole process, which has torch in it, and what merging adds to that.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, at_least, shown, worst_at_most

SHARDS, TENSORS = 4, 5  # of a model, of a shard
ROWS, COLUMNS = 12_500, 1_000  # of a tensor: 50 MB in fp32
SHARD_MB = TENSORS * ROWS * COLUMNS * 4 / 1e6
ROUNDS = 3
BUFFER_BYTES = 16 << 20
MOST_MB_ABOVE_A_SHARD = 1200
MOST_SHARDS = 2
SPEED_GOAL = 0.7


def run() -> tuple[list[Figure], dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        subprocess.run([sys.executable, "-m", __name__, "make", name], check=True)
        cold = [_round(folder, from_disk=True) for _ in range(ROUNDS)]
        warm = [_round(folder, from_disk=False) for _ in range(ROUNDS)]
    everything = [merge for merge, _ in (*cold, *warm)]
    peaks = [each["peak_mb"] for each in everything]
    added = [each["added_mb"] for each in everything]
    moved_mb = 3 * SHARDS * SHARD_MB
    return [
        worst_at_most(
            "peak memory above one shard",
            [peak - SHARD_MB for peak in peaks],
            MOST_MB_ABOVE_A_SHARD,
            "MB",
        ),
        worst_at_most(
            "memory that merging adds", [mb / SHARD_MB for mb in added], MOST_SHARDS, "shards"
        ),
        at_least("from disk, speed / copying", [_ratio(*each) for each in cold], SPEED_GOAL, "x"),
        shown("from memory, speed / copying", [_ratio(*each) for each in warm], "x"),
        shown("from disk, merging", [moved_mb / merge["seconds"] for merge, _ in cold], "MB/s"),
        shown("from disk, copying", [moved_mb / seconds for _, seconds in cold], "MB/s"),
        shown("from memory, merging", [moved_mb / merge["seconds"] for merge, _ in warm], "MB/s"),
        shown("from memory, copying", [moved_mb / seconds for _, seconds in warm], "MB/s"),
    ], {
        "model_mb": SHARDS * SHARD_MB,
        "shard_mb": SHARD_MB,
        "tensor_mb": SHARD_MB / TENSORS,
        "rounds": ROUNDS,
        "method": "linear",
    }


def _ratio(merge: dict[str, float], copying_s: float) -> float:
    return copying_s / merge["seconds"]


def _round(folder: Path, *, from_disk: bool) -> tuple[dict[str, float], float]:
    """(what the merge's process says of itself, seconds of copying)."""
    flag = "disk" if from_disk else "memory"
    ran = subprocess.run(
        [sys.executable, "-m", __name__, "merge", str(folder), flag],
        check=True,
        capture_output=True,
        text=True,
    )
    copying_s = copy(folder, from_disk)
    for each in (folder / "copied").iterdir():
        each.unlink()
    return json.loads(ran.stdout.splitlines()[-1]), copying_s


def copy(folder: Path, from_disk: bool) -> float:
    """Seconds to read both models and to write one."""
    (folder / "copied").mkdir(exist_ok=True)
    buffer = memoryview(bytearray(BUFFER_BYTES))
    if from_disk:
        forget(folder)
    began = time.perf_counter()
    for post in shards(folder / "post"):
        target = folder / "copied" / post.name
        with (
            (folder / "pre" / post.name).open("rb", buffering=0) as first,
            post.open("rb", buffering=0) as second,
            target.open("wb", buffering=0) as out,
        ):
            while first.readinto(buffer) and (count := second.readinto(buffer)):
                out.write(buffer[:count])
        if from_disk:
            to_disk(target)
    return time.perf_counter() - began


def merge(folder: Path, from_disk: bool) -> dict[str, float]:
    """Merge in this process; seconds and memory."""
    import torch

    from posttrain.averaging import linear
    from posttrain.model.merged_folder import MergeSources, merge_folders
    from posttrain.model.stored_tensors import stored_model

    torch.ones(1000, 1000).mul(2).add_(1)  # what arithmetic loads
    before_mb = _peak_mb()
    shutil.rmtree(folder / "merged", ignore_errors=True)
    if from_disk:
        forget(folder)
    began = time.perf_counter()
    pre, post = (stored_model(folder / name, name) for name in ("pre", "post"))
    config = linear.Config()
    merge_folders(
        MergeSources((post,), pre, weight_pre=0.3),
        folder / "merged",
        lambda versions: linear.merge(versions, config),
        {},
    )
    if from_disk:
        for shard in shards(folder / "merged"):
            to_disk(shard)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "peak_mb": _peak_mb(), "added_mb": _peak_mb() - before_mb}


def make_models(folder: Path) -> None:
    """Two models of random numbers, on disk."""
    import torch
    from safetensors.torch import save_file

    for name in ("pre", "post"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text("{}")
        places: dict[str, str] = {}
        for shard in range(SHARDS):
            file = f"model-{shard}.safetensors"
            state = {f"layers.{shard}.{n}": torch.randn(ROWS, COLUMNS) for n in range(TENSORS)}
            save_file(state, folder / name / file)
            to_disk(folder / name / file)
            places |= dict.fromkeys(state, file)
        index = json.dumps({"weight_map": places})
        (folder / name / "model.safetensors.index.json").write_text(index)


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def forget(folder: Path) -> None:
    """Drop both models from the page cache."""
    for name in ("pre", "post"):
        for shard in shards(folder / name):
            descriptor = os.open(shard, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def to_disk(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make_models(Path(sys.argv[2]))
    else:
        print(json.dumps(merge(Path(sys.argv[2]), sys.argv[3] == "disk")))
