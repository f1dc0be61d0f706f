"""`posttrain check` answers in under a second, process start included."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

from benchmarks.figures import Figure, at_most

REPEATS = 9


def run() -> tuple[list[Figure], dict[str, Any]]:
    command = [sys.executable, "-m", "posttrain.cli", "check", "quickstart"]
    subprocess.run(command, check=True, capture_output=True)  # warm the file cache
    samples = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        samples.append(time.perf_counter() - began)
    return [at_most("check quickstart, wall", samples, 1.0, "s")], {"repeats": REPEATS}
