"""Whether the heavy packages can be imported here, each in a process of its own with a deadline."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

from posttrain.doctor.child import last_line
from posttrain.doctor.finding import Finding

DEADLINE_S = 120.0
PROGRAMS: Mapping[str, str] = {
    "torch": "import torch; print(torch.__version__)",
    "transformers": "import transformers; print(transformers.__version__)",
    "ray": "import ray; print(ray.__version__)",
    "vllm": "import vllm; from vllm.platforms import current_platform as p; "
    "print(f'{vllm.__version__} for {p.device_type or p.device_name}')",
}


def import_findings(
    programs: Mapping[str, str] = PROGRAMS, deadline_s: float = DEADLINE_S
) -> list[Finding]:
    """One for each; seconds are those of a first import, compiling included."""
    return [_look(name, program, deadline_s) for name, program in programs.items()]


def _look(name: str, program: str, deadline_s: float) -> Finding:
    started = time.perf_counter()
    help = f'{sys.executable} -c "import {name}"'
    try:
        is_well, said = last_line([sys.executable, "-c", program], deadline_s)
    except TimeoutError:
        text = f"{name} takes more than {deadline_s:.0f} s"
        return Finding("import", "act", text, help)
    seconds = time.perf_counter() - started
    if not is_well:
        return Finding("import", "act", f"{name}: {said}", help)
    return Finding("import", "ok", f"{name} {said}, {seconds:.1f} s")
