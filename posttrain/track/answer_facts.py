"""What stages that make and judge sets of answers did, in a few words."""

from __future__ import annotations

from statistics import fmean

from posttrain.track.formatting import significant
from posttrain.track.views import StageView


def answer_facts(stage: StageView) -> list[str]:
    """Of `generate`, `best_of_n` and `over_optimisation`; nothing for any other kind."""
    if answers := stage.values("generate/answers"):
        return _generated(stage, int(answers[-1]))
    if gold := stage.values("best_of/score"):
        return _best_of(stage, gold)
    if gold := stage.values("over_optimisation/gold"):
        distances = stage.values("over_optimisation/kl_nats")
        best = max(range(len(gold)), key=gold.__getitem__)
        highest = f"gold {significant(gold[0])} → {significant(gold[best])}"
        return [highest, f"at {significant(distances[best])} nats"]
    return []


def _generated(stage: StageView, answers: int) -> list[str]:
    facts = [f"{answers:,} answers"]
    if rows := stage.values("generate/rows"):
        facts = [f"{answers:,} answers → {int(rows[-1]):,} rows"]
    if scores := stage.values("generate/score_mean"):
        facts.append(f"score {significant(fmean(scores))}")
    return facts


def _best_of(stage: StageView, gold: list[float]) -> list[str]:
    proxy = stage.values("best_of/proxy")
    sizes = [int(step) for step, _ in stage.series("best_of/score")]
    return [
        f"best of {sizes[-1]:,}: gold {significant(gold[0])} → {significant(gold[-1])}",
        f"by a reward that says {significant(proxy[0])} → {significant(proxy[-1])}",
    ]
