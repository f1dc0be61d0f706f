"""Curves of each stage, with the explanations of that time as marks on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_lowercase

from posttrain.track.formatting import fixed, percent, significant
from posttrain.track.report.figure import Figure, Series, change_in_words, curve_figure
from posttrain.track.report.optimisation import best_of_n_figures, law_figures
from posttrain.track.rows import pairs_right
from posttrain.track.views import NoteView, RunView, StageView

MAX_MARKS = 12  # more letters on one plot cannot be told apart
VALUE_EXPLAINED = "policy/value_explained_share"  # 1: it knows; 0 or less: a constant would do


@dataclass(frozen=True, slots=True)
class MarkedNote:
    """An explanation with the letter that marks it on the curves."""

    letter: str
    note: NoteView


@dataclass(frozen=True, slots=True)
class StageCurves:
    """A stage's pictures, notes, and every metric with its last value."""

    stage: StageView
    figures: Sequence[Figure]
    notes: Sequence[MarkedNote]
    metrics: Sequence[tuple[str, str, str, str]]  # name, first, last, range


def stage_curves(stage: StageView, view: RunView) -> StageCurves | None:
    """None for stages that recorded nothing over steps."""
    if not stage.rows:
        return None
    notes = [
        MarkedNote(letter, note)
        for letter, note in zip(ascii_lowercase, stage.notes[:MAX_MARKS], strict=False)
    ]
    marks = [(marked.note.step, marked.letter) for marked in notes if marked.note.step is not None]
    figures = _FIGURES.get(stage.kind, _supervised_figures)(stage, marks)
    return StageCurves(stage, figures, notes, _all_metrics(stage)) if figures else None


def _series(stage: StageView, metric: str, label: str, **style: object) -> list[Series]:
    """One line, or none where the metric was never recorded."""
    rows = [row for row in stage.rows if row.get(metric) is not None]
    if not rows:
        return []
    xs: dict[str, list[float]] = {"step": [row["axis/step"] for row in rows]}
    for axis, name, scale in (("hours", "axis/time_s", 1 / 3600), ("tokens", "axis/tokens", 1.0)):
        if all(row.get(name) is not None for row in rows):
            xs[axis] = [row[name] * scale for row in rows]
    return [Series(label, xs, [row[metric] for row in rows], **style)]  # type: ignore[arg-type]


def _supervised_figures(stage: StageView, marks: Sequence[tuple[float, str]]) -> list[Figure]:
    losses, held_out = stage.values("train/loss"), stage.values("sft/heldout_loss")
    finding = change_in_words("training loss", losses)
    if held_out:
        finding += f", held out {fixed(held_out[-1])}"
    loss = [
        *_series(stage, "train/loss", "training"),
        *_series(stage, "sft/heldout_loss", "held out", color=1, dash="dash", markers=True),
    ]
    norm = [
        *_series(stage, "train/grad_norm", "gradient norm", color=2),
        *_series(stage, "train/lr", "learning rate", color=3, dash="dot", second_axis=True),
    ]
    return [
        *_figure(stage, "loss", "Loss", loss, "nats per token", finding, marks),
        *_figure(
            stage,
            "gradient",
            "Gradient norm and learning rate",
            norm,
            "gradient norm",
            change_in_words("gradient norm", stage.values("train/grad_norm")),
            marks,
            second_title="learning rate",
        ),
    ]


def _pair_figures(stage: StageView, marks: Sequence[tuple[float, str]]) -> list[Figure]:
    """Of stages that learn from comparisons: how many are right, by how much, and at what cost."""
    held_out = pairs_right(stage.rows)
    named = [name.split("/") for name in stage.metrics if name.startswith("rm/")]
    members = sorted({int(parts[1]) for parts in named if parts[1].isdigit()})
    right = [
        *_series(stage, "pref/accuracy", "training"),
        *_series(stage, "rm/train_accuracy", "training"),
        *_series(stage, "pref/heldout_accuracy", "held out", color=1, dash="dash", markers=True),
    ]
    margin = [
        *_series(stage, "pref/margin", "training"),
        *_series(stage, "pref/heldout_margin", "held out", color=1, dash="dash", markers=True),
    ]
    for member in members:
        label = f"member {member}, held out"
        style: dict[str, object] = {"color": 1 + member, "dash": "dash", "markers": True}
        right += _series(stage, f"rm/{member}/pair_accuracy", label, **style)
        margin += _series(stage, f"rm/{member}/margin", label, **style)
    logprobs = [
        *_series(stage, "pref/chosen_logprob_per_token", "chosen answers"),
        *_series(stage, "pref/rejected_logprob_per_token", "rejected answers", color=1),
    ]
    found = change_in_words("held-out pairs right", [share for _, share in held_out], shares=True)
    found += _contrasts_in_words(stage)
    margins = stage.values("pref/heldout_margin")
    chosen = stage.values("pref/chosen_logprob_per_token")
    return [
        *_figure(
            stage, "pairs", "Comparisons right", right, "share", found, marks, percent_axis=True
        ),
        *_figure(
            stage,
            "margin",
            "Margin of the chosen answer",
            margin,
            "nats" if stage.kind == "preference" else "score",
            change_in_words("margin", margins) if margins else "the wider, the surer",
            marks,
        ),
        *_figure(
            stage,
            "logprobs",
            "How likely both answers are",
            logprobs,
            "nats per token",
            change_in_words("log-prob of a chosen answer's token", chosen),
            marks,
        ),
        *_supervised_figures(stage, marks),
    ]


def _contrasts_in_words(stage: StageView) -> str:
    """How often an ensemble tells apart two prompts that are alike: `posttrain.ops.contrast`."""
    answers = stage.values("rm/contrast_responses")
    prompts = stage.values("rm/contrast_instructions")
    if not answers or not prompts:
        return ""
    return (
        f"; of two like prompts the fitting answer {percent(answers[-1])}, "
        f"of two like answers the fitting prompt {percent(prompts[-1])} (chance 50 %)"
    )


def _rl_figures(stage: StageView, marks: Sequence[tuple[float, str]]) -> list[Figure]:
    rewards = stage.values("reward/mean")
    shares = all(0.0 <= value <= 1.0 for value in rewards)
    reward = [
        *_series(stage, "reward/mean", "reward on training prompts"),
        *_series(stage, "reward/greedy_mean", "greedy answers, the baseline", color=5, dash="dot"),
        *_series(stage, "reward/heldout_mean", "held out", color=1, dash="dash", markers=True),
        *_series(stage, "reward/watch_mean", "watched, never trained on", color=2),
    ]
    found = change_in_words("reward", rewards, shares=shares)
    curves = [
        *_figure(stage, "reward", "Reward", reward, "reward", found, marks, percent_axis=shares)
    ]
    for key, title, metric, unit, color in (
        ("kl", "Distance to the start (KL)", "policy/kl_reference_nats", "nats per answer", 3),
        ("members", "How far the reward models differ", "reward/members_std", "spread", 1),
        ("entropy", "Entropy", "policy/entropy_nats", "nats per token", 2),
        ("critic", "What the critic explains", VALUE_EXPLAINED, "share of the returns", 4),
    ):
        line = _series(stage, metric, title, color=color)
        words = change_in_words(title, stage.values(metric))
        curves += _figure(stage, key, title, line, unit, words, marks)
    return [*curves, *_length_and_gradient(stage, marks)]


def _length_and_gradient(stage: StageView, marks: Sequence[tuple[float, str]]) -> list[Figure]:
    lengths = stage.values("answer/length_tokens")
    length = [
        *_series(stage, "answer/length_tokens", "length"),
        *_series(
            stage, "answer/cut_share", "share cut off", color=1, dash="dash", second_axis=True
        ),
    ]
    gradient = [
        *_series(stage, "train/grad_norm", "gradient norm", color=2),
        *_series(stage, "train/loss", "loss", color=4, dash="dot", second_axis=True),
    ]
    return [
        *_figure(
            stage,
            "length",
            "Answer length and cut-off share",
            length,
            "tokens",
            change_in_words("answer length", lengths),
            marks,
            second_title="share cut off",
            second_percent=True,
        ),
        *_figure(
            stage,
            "gradient",
            "Gradient norm and loss",
            gradient,
            "gradient norm",
            change_in_words("gradient norm", stage.values("train/grad_norm")),
            marks,
            second_title="loss (nats per token)",
        ),
    ]


_FIGURES = {
    "online_rl": _rl_figures,
    "reward_model": _pair_figures,
    "preference": _pair_figures,
    "best_of_n": lambda stage, marks: best_of_n_figures(stage),
    "over_optimisation": lambda stage, marks: law_figures(stage),
}
"""Stage kind -> its pictures; other trained stages have those of supervised ones."""


def _figure(
    stage: StageView,
    key: str,
    title: str,
    series: Sequence[Series],
    y_title: str,
    finding: str,
    marks: Sequence[tuple[float, str]],
    *,
    percent_axis: bool = False,
    second_title: str = "",
    second_percent: bool = False,
) -> list[Figure]:
    if not series:
        return []
    has_second = any(line.second_axis for line in series)
    return [
        curve_figure(
            f"curve-{stage.name}-{key}",
            title,
            series,
            y_title=y_title,
            finding=finding,
            percent_axis=percent_axis,
            second_title=second_title if has_second else "",
            second_percent=second_percent,
            marks=marks,
        )
    ]


def _all_metrics(stage: StageView) -> list[tuple[str, str, str, str]]:
    found: dict[str, list[float]] = {}
    for row in stage.rows:
        for name, value in row.items():
            if "/" in name and not name.startswith("axis/"):
                found.setdefault(name, []).append(value)
    return [_metric_row(name, values) for name, values in sorted(found.items())]


def _metric_row(name: str, values: Sequence[float]) -> tuple[str, str, str, str]:
    low, high = significant(min(values), 3), significant(max(values), 3)
    spread = low if low == high else f"{low} to {high}"
    return name, significant(values[0], 3), significant(values[-1], 3), spread
