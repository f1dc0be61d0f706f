"""The GPUs that a process started here would see, as nvidia-smi tells them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Device = TypeVar("Device")

DEADLINE_S = 3.0
_QUERY = ("--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device; memory in bytes."""

    name: str
    memory_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Gpus:
    """Those that may be used, or what nvidia-smi said instead."""

    devices: tuple[Gpu, ...] = ()
    trouble: str = ""


def find_gpus() -> Gpus:
    """No devices where there is no nvidia-smi; never raises, and waits 3 s at most."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return Gpus()
    try:
        ran = subprocess.run(
            [program, *_QUERY], capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return Gpus(trouble=f"nvidia-smi does not answer within {DEADLINE_S:.0f} s")
    except OSError as error:
        return Gpus(trouble=f"nvidia-smi does not start: {error.strerror}")
    if ran.returncode != 0:
        said = (ran.stdout or ran.stderr).strip().splitlines()
        return Gpus(trouble=f"nvidia-smi fails: {said[0] if said else ran.returncode}")
    return Gpus(visible(parse(ran.stdout), os.environ.get("CUDA_VISIBLE_DEVICES")))


def parse(text: str) -> tuple[Gpu, ...]:
    """Devices of `NVIDIA H100, 81559, 81000` lines, in MiB; memory that it does not know is 0."""
    found = []
    for line in text.splitlines():
        name, *numbers = (each.strip() for each in line.split(","))
        if len(numbers) == 2:
            total, free = (int(each) << 20 if each.isdigit() else 0 for each in numbers)
            found.append(Gpu(name, total, free))
    return tuple(found)


def visible(devices: Sequence[Device], chosen: str | None) -> tuple[Device, ...]:
    """Those that CUDA_VISIBLE_DEVICES leaves: all where it is not set, none where it is empty.

    Names other than numbers (UUIDs) are counted, in order: which device they mean is not known.
    """
    if chosen is None:
        return tuple(devices)
    names = [each.strip() for each in chosen.split(",") if each.strip()]
    if all(each.isdigit() for each in names):
        return tuple(devices[int(each)] for each in names if int(each) < len(devices))
    return tuple(devices[: len([each for each in names if each != "-1"])])
