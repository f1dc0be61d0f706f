"""The lines that the live view shows of one running stage, most important first to go last.

Each line carries its weight: where the window is too low, the lightest lines are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from posttrain.config.keys import TRAINED_KINDS
from posttrain.track.events import event_words
from posttrain.track.formatting import (
    bar,
    duration,
    fixed,
    learning_rate,
    percent,
    printable,
    significant,
    sparkline,
)
from posttrain.track.rows import held_out, pairs_right, share_by_age, total_of
from posttrain.track.views import StageView

LABEL = 14  # columns of the names at the left
VERDICT_STYLES = {"act": "bold red", "watch": "yellow", "normal": "cyan"}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the screen and what it is worth."""

    text: Text
    weight: int


def region_lines(stage: StageView, width: int) -> list[Line]:
    """Curves, numbers, note and last samples of one running stage."""
    has_curves = bool(stage.rows) and stage.kind in TRAINED_KINDS
    waiting = stage.waiting_for() or (None if has_curves else _last_said(stage))
    lines = []
    if waiting:
        lines.append(
            _line(
                "waiting for" if stage.waiting_for() else "now",
                printable(waiting, width - LABEL - 2),
                90,
            )
        )
    elif not stage.rows and stage.kind in TRAINED_KINDS:
        lines.append(_line("waiting for", "the first step", 90))
    if stage.kind == "online_rl":
        lines += _rl_lines(stage, width)
    elif stage.rows:
        lines += _supervised_lines(stage, width)
    return lines


def title(stage: StageView, run_seconds: float | None, width: int) -> Text:
    """` rlvr   GRPO  step 24/60   0:46, about 1:08 left            run 5:19`"""
    left = Text(no_wrap=True, overflow="ellipsis")
    left.append(f" {stage.name}", "bold")
    algorithm = _algorithm(stage)
    left.append(f"   {algorithm}" if algorithm else "")
    if stage.steps:
        left.append(f"  step {stage.step or 0}/{stage.steps}")
    left.append(f"   {duration(stage.seconds)}")
    if stage.eta_s is not None:
        left.append(f", about {duration(stage.eta_s)} left")
    right = "" if run_seconds is None else f"run {duration(run_seconds)} "
    room = width - left.cell_len - len(right)
    return left.append(" " * room + right) if room > 1 else left


def note_lines(stage: StageView, width: int) -> list[Line]:
    """The worst explanation that holds, on at most three lines."""
    notes = stage.active_notes
    if not notes:
        return []
    note = notes[0]
    words = f" {note.verdict}: {printable(note.text, 400)}".split(" ")
    wrapped, current = [], words[0]
    for word in words[1:]:
        if len(current) + 1 + len(word) > width - 1:
            wrapped.append(current)
            current = f"         {word}"
        else:
            current = f"{current} {word}"
    wrapped.append(current)
    style = VERDICT_STYLES.get(note.verdict, "")
    return [Line(_text(line, style), 80 - index) for index, line in enumerate(wrapped[:3])]


def sample_lines(stage: StageView, width: int, count: int) -> list[Line]:
    """The newest answers: `"7 + 58 =" → "65" ✓`"""
    lines = []
    for index, sample in enumerate(reversed(stage.samples[-count:])):
        text = Text(f" {'last' if index == 0 else '    '}    ", no_wrap=True, overflow="ellipsis")
        room = max(10, (width - 34) // 2)
        text.append(f'"{printable(str(sample.get("prompt", "")), room)}" → ')
        text.append(f'"{printable(str(sample.get("completion", "")), room)}" ')
        text.append(*_mark(sample))
        version = sample.get("version_to")
        text.append(f"   from v{version}" if version is not None else "", "dim")
        lines.append(Line(text, 70 - index))
    return lines


def _mark(sample: Mapping[str, Any]) -> tuple[str, str]:
    passed, score = sample.get("passed"), sample.get("score")
    if passed is None:
        return (f"score {significant(float(score))}" if isinstance(score, int | float) else "", "")
    return ("✓", "green") if passed else ("✗", "red")


def _rl_lines(stage: StageView, width: int) -> list[Line]:
    bars = _bars(width - 62, 40)
    return [
        line
        for line in (
            _reward(stage, bars),
            _curve(stage, "entropy", "policy/entropy_nats", bars, "nats/token", 50),
            _kl_and_length(stage, bars),
            _critic(stage, bars),
            _age(stage, width),
            _busy(stage, width),
            _queues(stage),
            _weights(stage),
            _groups(stage),
        )
        if line is not None
    ]


_PAIRS_RIGHT = ("pref/accuracy", "rm/train_accuracy")
"""Shares of a step's comparisons that are right before it."""


def _supervised_lines(stage: StageView, width: int) -> list[Line]:
    bars = _bars(width - 46, 60)
    losses, held_out = stage.values("train/loss"), stage.series("sft/heldout_loss")
    lines = []
    if losses:
        text = _spark(losses, bars) + fixed(losses[-1])
        if held_out:
            step, value = held_out[-1]
            text += f"   held out {fixed(value)} (step {step:.0f})"
        lines.append(_line("loss", text, 60))
    right = [value for name in _PAIRS_RIGHT for value in stage.values(name)]
    if right:
        text = _spark(right, bars) + percent(right[-1])
        if pairs := pairs_right(stage.rows):
            text += f"   held out {percent(pairs[-1][1])} (step {pairs[-1][0]:.0f})"
        lines.append(_line("pairs right", text, 60))
    facts = []
    for name, unit, show in (
        ("train/tokens_per_s", "tokens/s", significant_speed),
        ("train/grad_norm", "grad norm", significant),
        ("train/lr", "lr", learning_rate),
    ):
        values = stage.values(name)
        if values:
            number = show(values[-1])
            facts.append(f"{number} {unit}" if unit == "tokens/s" else f"{unit} {number}")
    return [*lines, *([_line("speed", "   ".join(facts), 40)] if facts else [])]


def significant_speed(value: float) -> str:
    """`13.1k` tokens a second."""
    return f"{value / 1000:.1f}k" if value >= 1000 else f"{value:.0f}"


def _reward(stage: StageView, bars: int) -> Line | None:
    rewards = stage.values("reward/mean")
    if not rewards:
        return None
    shares = all(0.0 <= value <= 1.0 for value in rewards)
    now = percent(rewards[-1]) if shares else significant(rewards[-1], 3)
    text = _spark(rewards, bars) + now
    asked = held_out(stage.rows)
    if asked:
        step, value = asked[-1]
        half = stage.metrics.get("reward/heldout_ci")
        width = "" if half is None else f" ± {half * 100:.0f}"
        text += f"   held out {percent(value)}{width} (step {step:.0f})"
    return _line("reward", text, 65)


def _curve(
    stage: StageView, label: str, name: str, bars: int, unit: str, weight: int
) -> Line | None:
    values = stage.values(name)
    if not values:
        return None
    shown = f"{_spark(values, bars)}{significant(values[-1])} {unit}"
    return _line(label, shown, weight)


def _kl_and_length(stage: StageView, bars: int) -> Line | None:
    values, lengths = stage.values("policy/kl_reference_nats"), stage.values("answer/length_tokens")
    if not values and not lengths:
        return None
    parts = []
    if values:
        parts.append(f"{_spark(values, bars)}{significant(values[-1])} nats")
    if lengths:
        cut = stage.values("answer/cut_share")
        ended = f", {percent(cut[-1])} cut" if cut else ""
        parts.append(f"length {lengths[-1]:.1f} tokens{ended}")
    return _line("KL to start", "   ".join(parts), 48)


def _critic(stage: StageView, bars: int) -> Line | None:
    """Only of algorithms that have one."""
    values = stage.values("policy/value_explained_share")
    if not values:
        return None
    shown = f"{_spark(values, bars)}explains {percent(values[-1])} of the returns"
    return _line("critic", shown, 30)


def _age(stage: StageView, width: int) -> Line | None:
    shares = share_by_age(stage.rows[-1:], stage.samples)
    if not shares:
        return None
    words = {0: "same version", 1: "one older"}
    room = _bars((width - 50) // len(shares), 20)
    parts = [
        " ".join(filter(None, [words.get(age, f"{age} older"), bar(share, room), percent(share)]))
        for age, share in sorted(shares.items())
        if share > 0
    ]
    return _line("age of data", "  ".join(parts) + f"   max {max(shares)}", 44)


def _busy(stage: StageView, width: int) -> Line | None:
    both = stage.values("overlap/both_busy_share")
    length = _bars((width - (58 if both else 44)) // 2, 30)
    parts = [
        " ".join(filter(None, [part, bar(values[-1], length), percent(values[-1])]))
        for part in ("engine", "trainer")
        if (values := stage.values(f"{part}/busy_share"))
    ]
    parts += [f"both {percent(both[-1])}"] if both else []
    return _line("busy", "   ".join(parts), 46) if parts else None


def _queues(stage: StageView) -> Line | None:
    """What lies where: `41 running   3 waiting   5 groups ready   13.1k tok/s`"""
    found = {
        "running": stage.values("engine/running"),
        "waiting": stage.values("engine/waiting"),
        "groups ready": stage.values("age/buffer_groups"),
    }
    parts = [f"{values[-1]:.0f} {name}" for name, values in found.items() if values]
    speed = stage.values("engine/tokens_per_s")
    parts += [f"{significant_speed(speed[-1])} tok/s"] if speed else []
    return _line("engines", "   ".join(parts), 38) if len(parts) > 1 else None


def _weights(stage: StageView) -> Line | None:
    sync, gap = stage.values("weights/sync_ms"), stage.values("weights/logprob_gap_max_nats")
    versions = stage.values("axis/version")
    parts = [f"v{versions[-1]:.0f}"] if versions else []
    parts += [f"sync {sync[-1]:.0f} ms"] if sync else []
    stall = stage.values("weights/stall_share")
    parts += [f"stands still {percent(stall[-1])}"] if stall and stall[-1] >= 0.005 else []
    parts += [f"engine = trainer to {significant(gap[-1], 1)} nats"] if gap else []
    return _line("weights", "   ".join(parts), 42) if sync or gap else None


def _groups(stage: StageView) -> Line | None:
    trained, useless = stage.values("groups/trained"), stage.values("groups/no_signal_share")
    if not trained:
        return None
    parts = [f"{sum(trained):.0f} trained"]
    parts += [f"{percent(useless[-1])} taught nothing"] if useless else []
    filtered = total_of(stage.rows, "groups/filtered")
    parts += [f"{filtered:.0f} filtered"] if filtered else []
    dropped, lost = total_of(stage.rows, "groups/dropped"), sum(stage.values("ops/rollouts_lost"))
    return _line("groups", "   ".join([*parts, f"{dropped:.0f} dropped, {lost:.0f} lost"]), 40)


def _bars(room: int, most: int) -> int:
    """Columns for a sparkline; a narrow window has none."""
    return min(most, room) if room >= 8 else 0


def _spark(values: Sequence[float], bars: int) -> str:
    return f"{sparkline(values, bars):<{bars}}   " if bars else ""


def _algorithm(stage: StageView) -> str:
    value = stage.config.get("algorithm")
    name = value.get("name", "") if isinstance(value, Mapping) else value
    plain = str(name or "").rsplit("/", 1)[-1].removesuffix(".py")
    return plain.upper() if plain != stage.name else ""


def _last_said(stage: StageView) -> str | None:
    """The newest event in words, for stages that have no curves (yet)."""
    shown = [event for event in stage.events if event.get("name") != "note"]
    return event_words(shown[-1]) if shown else None


def _line(label: str, text: str, weight: int) -> Line:
    shown = Text(no_wrap=True, overflow="ellipsis")
    shown.append(f" {label:<{LABEL - 1}}", "dim")
    return Line(shown.append(text), weight)


def _text(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")
