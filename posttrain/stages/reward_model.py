"""The `reward_model` stage: an ensemble of reward models with TRL inside one Ray Train job."""

from __future__ import annotations

from dataclasses import replace

from posttrain.config.offline import RewardModelStage
from posttrain.stages.context import StageContext
from posttrain.stages.jobs import PluginRef
from posttrain.stages.offline_job import offline_job


def run(stage: RewardModelStage, algorithm: PluginRef, context: StageContext) -> str:
    """Train; returns "done" or "stopped". More trainers than members would have nothing to do."""
    if context.has("reward_models"):
        return "done"
    job = offline_job("reward_model", stage, algorithm, context)
    trainers = min(job.num_trainers, stage.members)
    job = replace(job, members=stage.members, augment=stage.augment, num_trainers=trainers)
    outcome = context.launcher.run_offline(job, context.tracker)
    if outcome == "done" and not context.has("reward_models"):
        context.launcher.put_together(job, context.tracker)
    return outcome
