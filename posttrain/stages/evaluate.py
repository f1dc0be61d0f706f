"""The `evaluate` stage: several models, the same questions, and which one to take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from posttrain.config.pipeline import EvaluateStage
from posttrain.config.suites import Suite
from posttrain.ports import Tracker
from posttrain.stages.measure import Evaluator, Measurement
from posttrain.stages.recommend import recommend, tax
from posttrain.types import Artifact


def run(
    stage: EvaluateStage,
    suite: Suite,
    fingerprint: str,
    models: Mapping[str, Artifact],
    evaluator: Evaluator,
    tracker: Tracker,
) -> dict[str, Any]:
    """Measure every model; returns what becomes measurements.json."""
    measured: dict[str, Measurement] = {}
    since = [suite.tax_since] if suite.tax_since else []  # without it there is no tax to bound
    for name in dict.fromkeys([*stage.models, *since]):
        tracker.event("asking", model=name, prompts_per_task=suite.prompts_per_task)
        measured[name] = evaluator.measure(models[name].path, stage.suite.use, suite, fingerprint)
        tracker.log(
            {
                f"eval/{name}/{task}/score": result.interval.value
                for task, result in measured[name].tasks.items()
            },
            step=len(measured) - 1,
        )
    return summarise(stage, suite, measured)


def summarise(
    stage: EvaluateStage, suite: Suite, measured: Mapping[str, Measurement]
) -> dict[str, Any]:
    """Tables, points and the recommendation, as JSON. Shares are 0..1."""
    since = measured.get(suite.tax_since or "")
    documents = {name: m.to_json() for name, m in measured.items()}
    result: dict[str, Any] = {
        "suite": stage.suite.use,
        "models": {name: document["tasks"] for name, document in documents.items()},
        "points": {},
        "answers": {name: document["answers"] for name, document in documents.items()},
        "passed": {name: document["passed"] for name, document in documents.items()},
        "recommended": None,
        "why": "",
    }
    for name, m in measured.items():
        cost = tax(suite, since, m) if name != suite.tax_since else None
        result["points"][name] = {
            "gain": m.gain.as_dict() if m.gain else None,
            "tax": cost.as_dict() if cost else None,
        }
    if stage.recommend:
        choice = recommend(stage.recommend, suite, measured)
        result |= {"recommended": choice.stage, "why": choice.why}
    return result
