"""Whether an engine starts here and computes what the trainer computes, in a process of its own."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence

from posttrain.doctor.child import last_line
from posttrain.doctor.finding import Finding

DEADLINE_S = 300.0
MOST_NATS = 1e-3  # as far as fp32 kernels may differ; stale weights differ by more than 0.1
PROGRAM = (sys.executable, "-m", "posttrain.cli.engine_trial")


def engine_finding(program: Sequence[str] = PROGRAM, deadline_s: float = DEADLINE_S) -> Finding:
    """`program FOLDER` starts one and says in its last line what it saw, in JSON."""
    help = f"{' '.join(program)} /tmp/engine   (shows everything that it says)"
    with tempfile.TemporaryDirectory(prefix="posttrain-") as folder:
        scratch = {"VLLM_CACHE_ROOT": folder, "VLLM_CONFIG_ROOT": folder}
        try:
            is_well, said = last_line([*program, folder], deadline_s, scratch)
        except TimeoutError:
            return Finding("engine", "act", f"has not started within {deadline_s:.0f} s", help)
    return _judged(json.loads(said), help) if is_well else Finding("engine", "act", said, help)


def _judged(seen: dict[str, float], help: str) -> Finding:
    start = f"started in {seen['start_s']:.1f} s, {seen['tokens_per_s']:,.0f} tokens/s"
    gaps = {
        "": seen["gap_nats"],
        " after an update of its weights": seen.get("gap_after_update_nats", 0.0),
    }
    for when, gap in gaps.items():
        if not gap <= MOST_NATS:  # nan too
            text = f"{start}, but its log-probs{when} lie {gap:.2g} nats from the trainer's"
            return Finding("engine", "act", text, help)
    updated = ", after an update too" if "gap_after_update_nats" in seen else ""
    furthest = max(gaps.values())
    text = f"{start}, log-probs equal to the trainer's within {furthest:.0e} nats{updated}"
    return Finding("engine", "ok", text)
