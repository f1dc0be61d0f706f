"""The run as plain lines, for pipes and logs: one line per fact, no bars, no cursor moves."""

from __future__ import annotations

import json
import time

from posttrain.track.formatting import printable
from posttrain.track.views import RunView, StageView

STEP_LINES = 10  # step lines per stage, beside the heartbeat

# Events of every step, or that say what another line says too.
QUIET = {"sync", "note_over", "saved", "restored", "engine-joined"}

SHOWN = {  # metric -> name in a line, in this order
    "train/loss": "loss",
    "sft/heldout_loss": "heldout_loss",
    "pref/heldout_accuracy": "pairs_right",
    "rm/pair_accuracy": "pairs_right",
    "reward/mean": "reward",
    "reward/heldout_mean": "heldout",
    "policy/kl_reference_nats": "kl_nats",
    "policy/entropy_nats": "entropy_nats",
    "age/versions/max": "age_max",
    "overlap/both_busy_share": "both_busy",
    "train/tokens_per_s": "tokens_per_s",
}


def plain_lines(previous: RunView | None, view: RunView, *, heartbeat: bool = False) -> list[str]:
    """What happened between two readings; with `heartbeat` at least where things stand.

    Example: `09:19:21 rlvr step=24/60 reward=0.71 heldout=0.64 kl_nats=1.8 eta_s=68`
    """
    clock = time.strftime("%H:%M:%S", time.localtime(view.now))
    lines: list[str] = []
    for stage in view.stages:
        before = previous.stage(stage.name) if previous else None
        lines += _stage_lines(before, stage, view)
    if previous is not None and previous.state != view.state:
        lines.append(f"{view.name} {view.state}")
    if heartbeat and not lines:
        lines = [_where(stage) for stage in view.running] or [f"{view.name} {view.state}"]
    return [f"{clock} {line}" for line in lines]


def _stage_lines(before: StageView | None, stage: StageView, view: RunView) -> list[str]:
    lines: list[str] = []
    was = before.state if before else "waiting"
    if stage.state == "running" and was != "running":
        lines.append(f"{stage.name} started kind={stage.kind} why={_word(stage.why)}")
    seen = len(before.events) if before else 0
    if stage.state == "running" or was == "running":
        lines += [
            _event(stage, dict(event))
            for event in stage.events[seen:]
            if event.get("name") not in QUIET
        ]
    if stage.state == "running" and _tenth(stage) > (_tenth(before) if before else 0):
        lines.append(_where(stage))
    if stage.state != was and stage.state in ("done", "failed", "stopped"):
        lines.append(_ended(stage, view))
    return lines


def _tenth(stage: StageView) -> int:
    return STEP_LINES * (stage.step or 0) // stage.steps if stage.steps else 0


def _where(stage: StageView) -> str:
    parts = [stage.name]
    if stage.steps:
        parts.append(f"step={stage.step or 0}/{stage.steps}")
    parts += _numbers(stage)
    waiting = stage.waiting_for()
    if waiting:
        parts.append(f"waiting_for={_word(waiting)}")
    elif not stage.rows and stage.seconds is not None:
        parts.append(f"time_s={stage.seconds:.0f}")
    if stage.eta_s is not None:
        parts.append(f"eta_s={stage.eta_s:.0f}")
    return " ".join(parts)


def _numbers(stage: StageView) -> list[str]:
    return [
        f"{short}={_compact(value)}"
        for name, short in SHOWN.items()
        if isinstance(value := stage.metrics.get(name), int | float)
    ]


def _ended(stage: StageView, view: RunView) -> str:
    parts = [f"{stage.name} {'kept' if stage.kept else stage.state}"]
    if stage.seconds is not None:
        parts.append(f"time_s={stage.seconds:.0f}")
    parts += _numbers(stage)
    measured = stage.measurements.get(view.suite.name) if view.suite else None
    for task, result in (measured.tasks if measured else {}).items():
        parts.append(f"{task.rsplit('/', 1)[-1]}={_compact(result.value.value)}")
    if stage.verdict and stage.verdict.recommended:
        parts.append(f"take={stage.verdict.recommended}")
    if stage.error:
        parts.append(f"error={_word(str(stage.error.get('message', '')))}")
    return " ".join(parts)


def _event(stage: StageView, event: dict[str, object]) -> str:
    if event.get("name") == "note":
        return f"{stage.name} {event.get('verdict')} {event.get('code')} {_word(event.get('text'))}"
    details = {key: value for key, value in event.items() if key not in ("time", "stage", "name")}
    shown = " ".join(f"{key}={_word(value)}" for key, value in details.items())
    return f"{stage.name} {event.get('name')} {shown}".rstrip()


def _compact(value: float) -> str:
    """`0.38`, `1`, `6100`: three meaningful digits, never an exponent above one."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _word(value: object) -> str:
    """A value that stays one word, quoted where it holds spaces."""
    if isinstance(value, float):
        return _compact(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = printable(text, 300)
    return json.dumps(text, ensure_ascii=False) if " " in text or '"' in text else text
