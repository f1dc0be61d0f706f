"""Names of stages that make no edge: gates and `tax_since` only look back at what is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from posttrain.config.pipeline import EvaluateStage, ModelStage, Pipeline
from posttrain.config.stage_base import StageBase
from posttrain.config.suites import Suite
from posttrain.config.tasks import suite_tasks
from posttrain.pipeline.gates import GateSyntaxError, parse_gate, resolve_gate
from posttrain.pipeline.references import Findings, Reference, add_unknown, add_wrong_type


def gate_tasks(stage: StageBase, suites: Mapping[str, Suite]) -> list[str]:
    """The tasks that a gate on this stage may name."""
    if isinstance(stage, EvaluateStage):
        suite = suites.get(stage.suite.use)
        return suite_tasks(suite) if suite else []
    asked = [suite for suite in suites.values() if suite.when == "every_model"]
    return list(dict.fromkeys(task for suite in asked for task in suite_tasks(suite)))


def check_gates(findings: Findings, name: str, stage: StageBase, before: Sequence[str]) -> None:
    """Report gates that do not parse, or name what is not measured; `before` are earlier stages."""
    stages = [*findings.pipeline.stages, *findings.unreadable]
    tasks = gate_tasks(stage, findings.pipeline.suites)
    for index, text in enumerate(stage.gates):
        key = f"stages.{name}.gates.{index}"
        try:
            gate = resolve_gate(parse_gate(text), stages, tasks)
        except GateSyntaxError as error:
            findings.add("bad-gate", str(error), key, error.help)
            continue
        if stage.produces != "model" and gate.left.stage is None:
            message = f"`{text}`: `{name}` makes no model, so whose {gate.left.measure}?"
            whose = stage.models[-1] if isinstance(stage, EvaluateStage) else "STAGE"
            findings.add("bad-gate", message, key, f"say it: `{whose}.{text}`")
            continue
        for operand in (gate.left, gate.right):
            other = operand.stage
            if other in (None, name) or other in before or other in findings.unreadable:
                continue
            message = f"`{text}`: `{other}` is not done before `{name}`"
            help = f"stages before it: {', '.join(before)}"
            findings.add("bad-gate", message, key, help)


def check_tax_since(findings: Findings, suite_name: str, suite: Suite) -> None:
    """Report a `tax_since` that names no model, or (a warning) one that never learnt anything."""
    if suite.tax_since is None:
        return
    key = f"suites.{suite_name}.tax_since"
    produced = findings.produced()
    reference = Reference(key, suite.tax_since)
    if suite.tax_since not in produced:
        add_unknown(findings, "", reference, produced)
        return
    if produced[suite.tax_since] not in (None, "model"):
        if not _asks(findings.pipeline, suite_name):  # else reported with the evaluate stage
            add_wrong_type(findings, reference, produced)
        return
    stage = findings.pipeline.stages.get(suite.tax_since)
    if isinstance(stage, ModelStage) and stage.from_scratch is not None:
        trained = [
            name
            for name, each in findings.pipeline.stages.items()
            if each.produces == "model" and name != suite.tax_since
        ]
        message = f"`{suite.tax_since}` has random weights: there is nothing it could forget"
        help = f"name a trained model: {', '.join(trained)}"
        findings.add("untrained-tax-base", message, key, help, "warning")


def _asks(pipeline: Pipeline, suite_name: str) -> bool:
    return any(
        isinstance(stage, EvaluateStage) and stage.suite.use == suite_name
        for stage in pipeline.stages.values()
    )
