"""Writes a small, realistic run folder of the quickstart's six stages, with fixed numbers.

The curves are smooth functions with seeded noise, so that what screens say of them can be
asserted to the letter.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

from posttrain.track.spans import Span
from posttrain.track.trace import TraceWriter

START = 1_763_630_000.0
SKILLS = ("copy", "reverse", "sort", "count")
IDENTITIES = {
    "blank": "0a11b2c3",
    "base": "1b22c3d4",
    "sft": "2c33d4e5",
    "rlvr": "4f1c9a2e",
    "average": "5e55f607",
    "final": "6f660718",
}
KINDS = {
    "blank": "model",
    "base": "sft",
    "sft": "sft",
    "rlvr": "online_rl",
    "average": "average",
    "final": "evaluate",
}
NEEDS = {
    "blank": [],
    "base": ["blank"],
    "sft": ["base"],
    "rlvr": ["sft"],
    "average": ["sft", "rlvr"],
    "final": ["base", "sft", "rlvr", "average"],
}
SECONDS = {"blank": 2, "base": 51, "sft": 44, "rlvr": 114, "average": 34, "final": 28}
ARITHMETIC = {"blank": 0.0, "base": 0.03, "sft": 0.48, "rlvr": 0.77, "average": 0.74}
KEPT = {"blank": 0.02, "base": 0.97, "sft": 0.93, "rlvr": 0.87, "average": 0.95}
SUITES = {
    "abilities": {
        "gain": ["microworld/arithmetic"],
        "keep": [f"microworld/{skill}" for skill in SKILLS],
        "prompts_per_task": 256,
        "when": "every_model",
        "tax_since": "base",
    }
}


def write_run(
    directory: Path,
    *,
    running_step: int | None = None,
    rl_steps: int = 60,
    kept: tuple[str, ...] = (),
    hostile: str = "",
) -> Path:
    """A finished run, or one whose `rlvr` is at `running_step` of `rl_steps`.

    `hostile` is put into completions and events, to see that screens escape it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    finished = running_step is None
    clock = START
    for name in KINDS:
        if not finished and name in ("average", "final"):
            break
        done = finished or name != "rlvr"
        _write_stage(directory, name, clock, done, running_step or rl_steps, rl_steps, hostile)
        clock += SECONDS[name]
    run = {
        "schema": 1,
        "name": "quickstart",
        "run_id": "20251120-091320",
        "file": "quickstart.yaml",
        "state": "done" if finished else "running",
        "command": "posttrain run quickstart",
        "started": START,
        "ended": START + 273 if finished else None,
        "pid": None,
        "host": "laptop",
        "wandb": "offline",
        "description": "A small model that can copy, reverse, sort and count learns arithmetic.",
        "stages": [
            {
                "name": name,
                "kind": KINDS[name],
                "identity": IDENTITIES[name],
                "needs": NEEDS[name],
                "why": "kept" if name in kept else "new",
            }
            for name in KINDS
        ],
        "suites": SUITES,
        "recommended": "average" if finished else None,
        "error": None,
    }
    _json(directory / "run.json", run)
    (directory / "pipeline.yaml").write_text("name: quickstart\nseed: 0\ncluster: laptop\n")
    if finished:
        (directory / "best").symlink_to(Path("average") / IDENTITIES["average"] / "model")
    return directory


def _write_stage(
    directory: Path, name: str, clock: float, done: bool, step: int, steps: int, hostile: str
) -> None:
    folder = directory / name / IDENTITIES[name]
    folder.mkdir(parents=True, exist_ok=True)
    kind = KINDS[name]
    total = {"sft": 120, "online_rl": steps}.get(kind)
    manifest = {
        "schema": 1,
        "stage": name,
        "kind": kind,
        "identity": IDENTITIES[name],
        "state": "done" if done else "running",
        "attempt": 0,
        "inputs": {need: IDENTITIES[need] for need in NEEDS[name]},
        "artifact": {"type": "model", "path": "model"} if done and kind != "evaluate" else None,
        "started": clock,
        "ended": clock + SECONDS[name] if done else None,
        "seconds": SECONDS[name] if done else None,
        "seed": 1234,
        "versions": {"posttrain": "0.1.0", "torch": "2.13.0+cpu", "vllm": "0.32.0"},
        "git": {"commit": "3f2a9c1d", "dirty": False},
        "command": "posttrain run quickstart",
        "metrics": {},
        "step": total if done else step,
        "steps": total,
        "error": None,
        "data": [{"path": "microworld/arithmetic", "fingerprint": "ab12cd34", "rows": 4096}]
        if kind in ("sft", "online_rl")
        else [],
    }
    _json(folder / "manifest.json", manifest)
    lines = "kind: " + kind + "\nseed: 1234\n"
    if kind == "sft":
        _lines(folder / "metrics.jsonl", sft_rows(name, clock))
        lines += "algorithm: {name: sft, lr: 2.0e-3}\nsteps: 120\n"
    if kind == "online_rl":
        _lines(folder / "metrics.jsonl", rl_rows(clock, step, steps))
        _lines(folder / "events.jsonl", rl_events(clock))
        _lines(folder / "samples.jsonl", rl_samples(step, hostile))
        write_trace(folder, clock, step)
        lines += f"algorithm: {{name: grpo, lr: 3.0e-4}}\nsteps: {steps}\n"
        lines += "batch: {prompts: 32, samples_per_prompt: 8}\nstaleness: {max: 1, ahead: 1}\n"
        lines += "sampling: {temperature: 1.0, max_new_tokens: 12}\n"
    if kind == "evaluate":
        lines += "recommend: {most: gain, tax_at_most: 3.0}\n"
    (folder / "config.yaml").write_text(lines)
    if done and kind != "evaluate":
        (folder / "model").mkdir(exist_ok=True)
        (folder / "model" / "model.safetensors").write_bytes(bytes(3_600_000))
        _json(folder / "measurements" / "abilities.json", measurement(name, 256, hostile))
    if done and kind == "evaluate":
        _json(folder / "measurements.json", evaluation())


def sft_rows(name: str, clock: float) -> list[dict]:
    """120 steps, loss to the digits that the tests expect: 4.61 -> 0.38 and 1.92 -> 0.61."""
    first, last = {"base": (4.61, 0.38), "sft": (1.92, 0.61)}[name]
    rows = []
    for step in range(1, 121):
        share = (step - 1) / 119
        loss = last + (first - last) * (math.exp(-5 * share) - math.exp(-5)) / (1 - math.exp(-5))
        row = {
            "time": clock + 5 + 0.3 * step,
            "attempt": 0,
            "axis/step": step,
            "axis/tokens": 1800 * step,
            "axis/time_s": round(5 + 0.3 * step, 2),
            "train/loss": round(loss, 4),
            "train/grad_norm": round(0.4 + 1.2 * math.exp(-4 * share), 4),
            "train/lr": 2e-3 * (1 - share),
            "train/tokens_per_s": 6100.0,
        }
        if step % 20 == 0:
            row["sft/heldout_loss"] = round(loss + 0.03, 4)
        rows.append(row)
    return rows


def rl_rows(clock: float, step_count: int, steps: int) -> list[dict]:
    """Reward from about 0.48 to 0.77, entropy and KL as they usually go."""
    noise = random.Random(7)
    rows = []
    for step in range(1, step_count + 1):
        share = step / steps
        reward = 0.48 + 0.29 * (1 - math.exp(-3 * share)) / (1 - math.exp(-3))
        row = {
            "time": clock + 10 + 1.7 * step,
            "attempt": 0,
            "axis/step": step,
            "axis/version": step,
            "axis/tokens": 2400 * step,
            "axis/time_s": round(10 + 1.7 * step, 2),
            "train/loss": round(noise.gauss(0, 2e-4), 6),
            "train/grad_norm": round(0.31 + noise.gauss(0, 0.02), 4),
            "train/lr": 3e-4,
            "train/step_time_s": 1.5,
            "train/tokens_per_s": 9800.0,
            "reward/mean": round(reward + noise.gauss(0, 0.015), 4),
            "reward/std": 0.41,
            "policy/kl_reference_nats": round(2.6 * share**0.7 + noise.gauss(0, 0.02), 4),
            "policy/entropy_nats": round(0.78 - 0.4 * share + noise.gauss(0, 0.006), 4),
            "policy/ratio_mean": 1.0004,
            "groups/trained": 32,
            "groups/no_signal_share": round(0.11 + 0.2 * share, 4),
            "groups/all_right_share": round(0.08 + 0.2 * share, 4),
            "groups/all_wrong_share": 0.03,
            "answer/length_tokens": round(9.1 + 0.5 * share, 3),
            "answer/cut_share": 0.008,
            "age/versions/mean": 0.39,
            "age/versions/max": 1,
            "age/wait_s": 0.1,
            "age/share/0": 0.61,
            "age/share/1": 0.39,
            "weights/sync_ms": round(46 + noise.gauss(0, 2), 1),
            "weights/stall_share": 0.002,
            "engine/busy_share": 0.93,
            "engine/running": 41,
            "engine/waiting": 3,
            "age/buffer_groups": 5,
            "overlap/both_busy_share": 0.81,
            "ops/continued_tokens": 0,
            "engine/tokens_per_s": 13100.0,
            "trainer/busy_share": 0.88,
            "verifier/failed_share": 0.0,
        }
        if step % 10 == 0:
            row["reward/heldout_mean"] = round(reward - 0.05, 4)
            row["weights/logprob_gap_max_nats"] = 3e-6
        rows.append(row)
    return rows


def rl_events(clock: float) -> list[dict]:
    text = (
        "loss 0.0002 is no bug; advantages cancel inside a group."
        " The gradient moves the model (norm 0.31); watch reward"
    )
    return [
        {
            "time": clock + 1,
            "stage": "rlvr",
            "name": "waiting",
            "text": "starting engine 0 (about 10 s)",
        },
        {
            "time": clock + 16,
            "stage": "rlvr",
            "name": "note",
            "step": 3,
            "verdict": "normal",
            "code": "loss-near-zero",
            "text": text,
        },
    ]


def write_trace(folder: Path, clock: float, step_count: int) -> None:
    """Two engines, a trainer, coordinator and rewards, as they take turns in steps of 1.7 s."""
    writer = TraceWriter(folder, "rlvr")
    for step in range(step_count):
        at = clock + 10 + 1.7 * step
        for engine in (0, 1):
            row = f"engine {engine}"
            writer.spans(
                [
                    Span(row, "generate", at, at + 0.9, {"running": 21}),
                    Span(row, f"swap v{step}", at + 0.9, at + 0.95, {}),
                    Span(row, "generate", at + 0.95, at + 1.6 + 0.05 * engine, {"running": 20}),
                ]
            )
        spans = [
            Span("trainer 0", f"wait for batch {step}", at, at + 0.1, {}),
            Span("trainer 0", f"step {step}", at + 0.1, at + 1.6, {}),
            Span("trainer 0", f"publish v{step + 1}", at + 1.6, at + 1.65, {}),
            Span("coordinator", f"batch {step}", at + 0.1, at + 0.11, {}),
            Span("rewards", "score", at + 0.4, at + 0.7, {"groups": 16}),
        ]
        if step % 20 == 19:
            spans.append(Span("trainer 0", "save", at + 1.65, at + 1.7, {}))
        writer.spans(spans)
        writer.counters(at + 1.65, {"engine/running": 41, "age/buffer_groups": 5})
    writer.close()


def rl_samples(step: int, hostile: str) -> list[dict]:
    rows = []
    for at in range(10, step + 1, 10):
        for sample, (prompt, completion, right) in enumerate(
            [("7+58=", "65", True), ("91-47=", "54", False), ("12+30=", hostile or "42", True)]
        ):
            rows.append(
                {
                    "step": at,
                    "draw": 32 * at + sample,
                    "sample": sample,
                    "prompt": prompt,
                    "completion": completion,
                    "score": float(right),
                    "parts": {"correct": float(right)},
                    "tokens": 3,
                    "cut": False,
                    "version_from": at - 1,
                    "version_to": at - 1,
                    "age": 1,
                    "passed": right,
                }
            )
    return rows


def interval(value: float, prompts: int) -> dict:
    half = 1.96 * math.sqrt(max(value * (1 - value), 1 / prompts) / prompts)
    return {
        "value": round(value, 4),
        "low": round(max(0.0, value - half), 4),
        "high": round(min(1.0, value + half), 4),
    }


def task_values(name: str) -> dict[str, float]:
    keep = KEPT[name]
    spread = {"copy": 0.02, "reverse": 0.0, "sort": -0.01, "count": -0.01}
    skills = {f"microworld/{skill}": min(1.0, max(0.0, keep + spread[skill])) for skill in SKILLS}
    return {"microworld/arithmetic": ARITHMETIC[name], **skills}


def measurement(name: str, prompts: int, hostile: str = "") -> dict:
    values = task_values(name)
    return {
        "suite": "abilities",
        "fingerprint": "f00dfeed",
        "tasks": {
            task: {**interval(value, prompts), "kind": "accuracy", "prompts": prompts}
            for task, value in values.items()
        },
        "answers": {
            "microworld/arithmetic": arithmetic_answers(name, hostile),
            "microworld/copy": [
                {"prompt": f"copy {word}:", "completion": word, "score": 1.0}
                for word in ("abc", "dcba", "hello")
            ],
        },
        "passed": {},
        "points": {
            "gain": interval(ARITHMETIC[name], prompts),
            "keep": interval(KEPT[name], 4 * prompts),
        },
        "seconds": 3.1,
    }


def arithmetic_answers(name: str, hostile: str) -> list[dict]:
    """64 sums; the better the model, the more of them it has right, and a few it unlearnt."""
    order = random.Random(3)
    rows = []
    for index in range(64):
        left, right = order.randint(1, 99), order.randint(1, 99)
        threshold = order.random()
        good = threshold < ARITHMETIC[name]
        if index % 16 == 5:
            good = name in ("base", "sft")
        answer = str(left + right) if good else str(left + right - 10)
        if hostile and index == 2:
            answer = hostile
        rows.append(
            {"prompt": f"{left}+{right}=", "completion": answer, "score": 1.0 if good else 0.0}
        )
    return rows


def evaluation() -> dict:
    models = ("base", "sft", "rlvr", "average")
    return {
        "suite": "abilities",
        "models": {
            name: {
                task: {**interval(value, 1024), "prompts": 1024}
                for task, value in task_values(name).items()
            }
            for name in models
        },
        "recommended": "average",
        "why": "rlvr knows 3 points more and forgot 8 more; your rule was tax_at_most: 3",
        "points": {
            name: {
                "gain": interval(ARITHMETIC[name], 1024),
                "tax": None if name == "base" else tax(name),
            }
            for name in models
        },
        "answers": {},
    }


def tax(name: str) -> dict:
    value = KEPT["base"] - KEPT[name]
    return {
        "value": round(value, 4),
        "low": round(value - 0.012, 4),
        "high": round(value + 0.012, 4),
    }


def _json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), "utf-8")


def _lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
