"""The `preference` stage: DPO and its family with TRL inside Ray Train."""

from __future__ import annotations

from dataclasses import replace

from posttrain.config.offline import PreferenceStage
from posttrain.stages.context import StageContext
from posttrain.stages.jobs import PluginRef
from posttrain.stages.offline_job import offline_job


def run(stage: PreferenceStage, algorithm: PluginRef, context: StageContext) -> str:
    """Train; returns "done" or "stopped"."""
    if context.has("model"):
        return "done"
    job = replace(
        offline_job("preference", stage, algorithm, context),
        restraints=stage.restraints,
        early_stopping=stage.early_stopping,
    )
    return context.launcher.run_offline(job, context.tracker)
