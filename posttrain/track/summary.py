"""What stays on the screen: one line per finished stage, and the end of the run.

The end answers three questions (what did each stage gain, what did it cost, which model should I
take) and its last lines are the ones to act on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from posttrain.errors import Problem
from posttrain.track.answer_facts import answer_facts
from posttrain.track.formatting import (
    duration,
    fixed,
    half_width,
    long_duration,
    percent,
    percent_interval,
    significant,
    task_label,
)
from posttrain.track.gains import (
    Change,
    ModelRow,
    gain_table,
    mean_share,
    measured_models,
    parent_model,
)
from posttrain.track.mishaps import num_restarts
from posttrain.track.rows import pairs_right
from posttrain.track.views import Measurement, RunView, StageView
from posttrain.types import Interval

MARKS = {"done": "✓", "failed": "✗", "stopped": "■", "running": "▶", "waiting": "·"}


# --- one line per finished stage -----------------------------------------------------------------


def finished_line(stage: StageView, view: RunView) -> str:
    """` ✓ sft      0:44   loss 1.92 → 0.61   arithmetic 3 → 48 %   skills 93 %`"""
    width = max((len(other.name) for other in view.stages), default=0)
    took = "kept" if stage.kept else duration(stage.seconds)
    facts = stage_facts(stage, view)
    if stage.error:
        facts = [str(stage.error.get("message", "")), *facts]
    return f" {MARKS[stage.state]} {stage.name:<{width}} {took:>6}   {'   '.join(facts)}".rstrip()


def stage_facts(stage: StageView, view: RunView) -> list[str]:
    """What a stage did, in a few words: its own curve, then what its model can do now."""
    return [*_training_facts(stage), *_early_end(stage), *_ability_facts(stage, view)]


def _early_end(stage: StageView) -> list[str]:
    """Of a stage that ended before its last step: where."""
    steps = [event.get("step") for event in stage.events if event.get("name") == "stopped-early"]
    return [f"ended early at step {steps[-1]}"] if steps else []


def _training_facts(stage: StageView) -> list[str]:
    if stage.kind == "online_rl":
        rewards, kl = stage.values("reward/mean"), stage.values("policy/kl_reference_nats")
        facts = [f"reward {_ends(rewards, 3)}"] if rewards else []
        return facts + ([f"KL {significant(kl[-1])} nats"] if kl else [])
    if facts := answer_facts(stage):
        return facts
    if stage.kind == "evaluate" and stage.verdict is not None:
        count, taken = len(stage.verdict.models), stage.verdict.recommended
        return [f"take {taken} (of {count})" if taken else f"{count} models"]
    if right := [share for _, share in pairs_right(stage.rows)]:
        last = (stage.values("rm/pair_accuracy") or right)[-1]
        facts = [f"pairs right {percent(right[0]).removesuffix(' %')} → {percent(last)}"]
        agreed = stage.values("rm/agreement_share")
        return facts + ([f"members agree {percent(agreed[-1])}"] if agreed else [])
    losses = stage.values("train/loss")
    if losses:
        return [f"loss {fixed(losses[0])} → {fixed(losses[-1])}"]
    return []


def _ends(values: list[float], count: int) -> str:
    """First and last, each a mean of a few steps because single ones are noisy."""
    return f"{fmean(values[:count]):.2f} → {fmean(values[-count:]):.2f}"


def _ability_facts(stage: StageView, view: RunView) -> list[str]:
    suite = view.suite
    now = stage.measurements.get(suite.name) if suite else None
    if suite is None or now is None:
        return []
    own = {
        other.name: other.measurements[suite.name]
        for other in view.stages
        if suite.name in other.measurements
    }
    parent = own.get(parent_model(view, stage, own) or "")
    facts = []
    for task in suite.gain:
        if task not in now.tasks:
            continue
        before = parent.tasks.get(task) if parent else None
        start = f"{percent(before.value.value).removesuffix(' %')} → " if before else ""
        facts.append(f"{task_label(task)} {start}{percent(now.tasks[task].value.value)}")
    keep = mean_share(now, suite.keep)
    if keep is not None:
        facts.append(f"{suite.keep_label} {percent(keep.value)}")
    return facts


# --- the end of the run --------------------------------------------------------------------------


def end_of_run(
    view: RunView,
    *,
    try_command: str = "posttrain chat",
    then_command: str = "posttrain new mine --from gsm8k",
) -> str:
    """The text printed when a run ends, however it ended."""
    lines = [_headline(view)]
    rows = gain_table(view)
    if rows:
        lines += _table(view, rows)
        lines += _recommendation(view, rows)
    if view.state != "done":
        return "\n".join([*lines, *_unfinished(view)])
    model = _model_line(view)
    report = f"report {_shown(view.directory / 'report.html')}"
    if model:
        lines.append(_columns(model, report))
        lines.append(_columns(f"try    {try_command}", f"then   {then_command}"))
    else:
        lines.append(report)
    if view.wandb == "offline" and (view.directory / "wandb").is_dir():
        lines.append(f"W&B    wandb sync {_shown(view.directory)}/wandb/offline-run-*")
    return "\n".join(lines)


def _headline(view: RunView) -> str:
    words = {"done": "done in", "gate": "stopped by a gate after", "running": "running for"}
    took = long_duration(view.seconds or 0.0)
    kept = sum(stage.kept for stage in view.stages)
    counts = f"{len(view.stages)} stages" + (f", {kept} kept" if kept else "")
    return (
        f"{view.name} {words.get(view.state, f'{view.state} after')} {took}   {counts},"
        f" {sum(map(num_restarts, view.stages))} restarts,"
        f" {_count(view, 'rollouts_lost')} rollouts lost,"
        f" {_count(view, 'trained_twice')} trained twice"
    )


def _count(view: RunView, name: str) -> int:
    """A total over the run, from `ops/` metrics."""
    return round(sum(sum(stage.values(f"ops/{name}")) for stage in view.stages))


def _table(view: RunView, rows: list[ModelRow]) -> list[str]:
    suite = view.suite
    assert suite is not None  # gain_table is empty without one
    gains = [task for task in suite.gain if any(task in row.gain for row in rows)]
    with_keep = any(row.keep is not None for row in rows)
    with_tax = any(row.tax is not None for row in rows)
    measured = measured_models(view)
    texts = [t for t in suite.keep if any(_is_perplexity(m, t) for m in measured.values())]
    cells = [
        _cells(row, gains, with_keep, with_tax, measured[row.stage.name], texts) for row in rows
    ]
    header = ["", *(task_label(task) for task in gains)]
    header += [f"{suite.keep_label} kept" if suite.keep_label == "skills" else "kept"] * with_keep
    header += ["tax (points)"] * with_tax + texts + ["time"]
    widths = [max(len(line[index]) for line in [header, *cells]) for index in range(len(header))]
    first_cost = 1 + len(gains)
    cost_at = 2 + sum(width + 3 for width in widths[:first_cost])
    question = "1 What did each stage gain?"
    lines = [f"{question:<{max(cost_at, len(question) + 3)}}2 What did it cost?"]
    for line in [header, *cells]:
        padded = "   ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=True))
        lines.append(f"  {padded}".rstrip())
    return lines


def _is_perplexity(measurement: Measurement, task: str) -> bool:
    return task in measurement.tasks and measurement.tasks[task].kind == "perplexity"


def _cells(
    row: ModelRow,
    gains: list[str],
    with_keep: bool,
    with_tax: bool,
    measurement: Measurement,
    texts: list[str],
) -> list[str]:
    cells = [row.stage.name]
    for task in gains:
        interval, change = row.gain.get(task), row.gain_changes.get(task)
        text = percent_interval(interval) if interval else "-"
        cells.append(f"{text:<10} {_change(change)}" if change else text)
    if with_keep:
        cells.append(percent_interval(row.keep) if row.keep else "-")
    if with_tax:
        cells.append(tax_text(row.tax))
    for task in texts:  # shown, never averaged into points
        shown = _is_perplexity(measurement, task)
        cells.append(significant(measurement.tasks[task].value.value, 3) if shown else "-")
    took = "kept" if row.stage.kept else duration(row.stage.seconds)
    return [*cells, took]


def _change(change: Change) -> str:
    return f"{round(change.value * 100):+3d}" + (" (noise)" if change.is_noise else "")


def tax_text(tax: Interval | None) -> str:
    """`4.0 ± 1.5`, in points; `-` for the model that the tax is counted from."""
    if tax is None:
        return "-"
    value = tax.value * 100
    noise = " (noise)" if tax.low <= 0 <= tax.high else ""
    return f"{value + 0.0:.1f} ± {half_width(tax) * 100:.1f}{noise}".replace("-0.0 ", "0.0 ")


def _recommendation(view: RunView, rows: list[ModelRow]) -> list[str]:
    taken = recommended_model(view)
    row = next((row for row in rows if row.stage.name == taken), None)
    if row is None:
        return []
    lines = [f"3 Which model should I take?   {taken}: {gain_for_tax(row)}."]
    why = view.evaluation.why if view.evaluation else ""
    return [*lines, f"  {why}"] if why else lines


def recommended_model(view: RunView) -> str | None:
    """The stage whose model the evaluation's rule chose."""
    return view.recommended or (view.evaluation.recommended if view.evaluation else None)


def gain_for_tax(row: ModelRow) -> str:
    """`74 % arithmetic for a tax of 2.1 points`"""
    gained = ", ".join(
        f"{percent(interval.value)} {task_label(task)}" for task, interval in row.gain.items()
    )
    if row.tax is not None:
        return f"{gained} for a tax of {max(0.0, row.tax.value * 100):.1f} points"
    return f"{gained}, {percent(row.keep.value)} kept" if row.keep else gained


def _model_line(view: RunView) -> str:
    best = view.directory / "best"
    if not best.exists():
        return ""
    size = sum(path.stat().st_size for path in best.resolve().rglob("*") if path.is_file())
    return f"model  {_shown(best)} (Hugging Face folder, {file_size(size)})"


def file_size(num_bytes: int) -> str:
    """`3.6 MB`: decimal units, as disks are sold."""
    size = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _unfinished(view: RunView) -> list[str]:
    """What went wrong, what is kept, how to go on."""
    done = [stage.name for stage in view.stages if stage.state == "done"]
    lines = []
    error: Mapping[str, object] | None = view.error or next(
        (stage.error for stage in view.stages if stage.error), None
    )
    if error:
        lines += _problem(error).render().splitlines()
    if done:
        lines.append(f"kept   {', '.join(done)}")
    if view.state in ("failed", "stopped"):
        lines.append("go on  posttrain resume")
    return lines


def _problem(error: Mapping[str, object]) -> Problem:
    place = error.get("place") or error.get("path") or ""
    return Problem(
        code=str(error.get("code", "failed")),
        message=str(error.get("message", "")),
        path=str(place),
        help=str(error.get("help") or ""),
    )


def _columns(left: str, right: str, width: int = 62) -> str:
    return f"{left:<{width}}{right}" if len(left) < width else f"{left}\n{right}"


def _shown(path: Path) -> str:
    """A path as a person would type it from here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
