"""Samples: the same prompts before and after, and what each RL stage wrote on its way.

What is shown is picked by position, never by how good it looks: every n-th of the improved, of the
unchanged and of the worse, with the counts of all three beside them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.track.formatting import task_label
from posttrain.track.gains import measured_models
from posttrain.track.report.figure import thin_indices
from posttrain.track.summary import recommended_model
from posttrain.track.views import RunView, StageView

IMPROVED, UNCHANGED, WORSE = 4, 3, 3
STAGE_SAMPLES = 10
MAX_TEXT = 2000  # characters of one answer


@dataclass(frozen=True, slots=True)
class Pair:
    """One prompt with the answers of two models."""

    verdict: str  # improved, unchanged, worse
    task: str
    prompt: str
    before: str
    before_score: str
    after: str
    after_score: str


@dataclass(frozen=True, slots=True)
class Pairs:
    """A few pairs of two models, and how many there are of each sort."""

    before: str
    after: str
    counts: Mapping[str, int]
    total: int
    rows: Sequence[Pair]


def before_and_after(view: RunView) -> Pairs | None:
    """The first and the last (recommended) model; None with fewer than two."""
    suite = view.suite
    if suite is None:
        return None
    answers = {
        name: found.answers for name, found in measured_models(view).items() if found.answers
    }
    own = {
        stage.name: stage.measurements[suite.name].answers
        for stage in view.stages
        if suite.name in stage.measurements and stage.measurements[suite.name].answers
    }
    if len(own) >= len(answers):
        answers = own  # asked right after each stage, of more models than the evaluation
    names = list(answers) or [""]
    chosen = recommended_model(view)
    first = suite.tax_since if suite.tax_since in answers else names[0]
    last = chosen if chosen in answers else names[-1]
    if not first or not last or first == last:
        return None
    groups: dict[str, list[Pair]] = {"improved": [], "unchanged": [], "worse": []}
    for task in (*suite.gain, *suite.keep):
        for old, new in zip(
            answers[first].get(task, ()), answers[last].get(task, ()), strict=False
        ):
            if old.get("prompt") == new.get("prompt"):
                pair = _pair(task, old, new)
                groups[pair.verdict].append(pair)
    counts = {verdict: len(pairs) for verdict, pairs in groups.items()}
    limits = (("improved", IMPROVED), ("unchanged", UNCHANGED), ("worse", WORSE))
    rows = [
        groups[verdict][index]
        for verdict, most in limits
        for index in thin_indices(len(groups[verdict]), most)
    ]
    return Pairs(first, last, counts, sum(counts.values()), rows) if rows else None


def _pair(task: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Pair:
    before, after = float(old.get("score") or 0.0), float(new.get("score") or 0.0)
    verdict = "unchanged" if before == after else "improved" if after > before else "worse"
    return Pair(
        verdict,
        task_label(task),
        shortened(old.get("prompt")),
        shortened(old.get("completion")),
        f"{before:.3g}",
        shortened(new.get("completion")),
        f"{after:.3g}",
    )


@dataclass(frozen=True, slots=True)
class SampleRow:
    """One answer of an RL stage on its way."""

    step: str
    prompt: str
    completion: str
    score: str
    parts: str
    tokens: str
    versions: str
    age: str
    mark: str


@dataclass(frozen=True, slots=True)
class StageSamples:
    stage: StageView
    rows: Sequence[SampleRow]
    total: int


def stage_samples(view: RunView) -> list[StageSamples]:
    """Up to ten per stage, spread over its length."""
    return [
        StageSamples(
            stage,
            [
                _sample(stage.samples[index])
                for index in thin_indices(len(stage.samples), STAGE_SAMPLES)
            ],
            len(stage.samples),
        )
        for stage in view.stages
        if stage.samples
    ]


def _sample(row: Mapping[str, Any]) -> SampleRow:
    first, last = row.get("version_from"), row.get("version_to")
    versions = "" if first is None else f"v{first}" if first == last else f"v{first} → v{last}"
    parts = row.get("parts")
    passed = row.get("passed")
    return SampleRow(
        step=str(row.get("step", "")),
        prompt=shortened(row.get("prompt")),
        completion=shortened(row.get("completion")) + (" ✂ cut" if row.get("cut") else ""),
        score=f"{row['score']:.3g}" if isinstance(row.get("score"), int | float) else "",
        parts=json.dumps(parts, ensure_ascii=False) if parts else "",
        tokens=str(row.get("tokens", "")),
        versions=versions,
        age=str(row.get("age", "")),
        mark="" if passed is None else "✓" if passed else "✗",
    )


def shortened(value: Any) -> str:
    """An answer as text, its middle left out where it is very long."""
    text = str(value if value is not None else "")
    if len(text) <= MAX_TEXT:
        return text
    half = MAX_TEXT // 2
    return f"{text[:half]} […{len(text) - MAX_TEXT} characters…] {text[-half:]}"
